"""Stands in for TensorRT's module and a machine with it: engines run on the memory of `fake_cuda`.

What an engine computes, ONNX Runtime computes, when its turn in the stream comes. Names are those
that every version has, see `tensorrt_names.json`; what TensorRT calls undefined, as to read or
write what a context must not, ends the test.
"""

from __future__ import annotations

import gc
import hashlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from fake_cuda import FakeCuda, Misuse

from ifmmin.runtime.backends.cuda import Cuda
from ifmmin.runtime.backends.profile import profile_of
from ifmmin.runtime.backends.tensorrt import load_engine, make_runtime
from ifmmin.runtime.backends.tensorrt_build import build_engine
from ifmmin.runtime.backends.tensorrt_engine import EngineRunner
from ifmmin.runtime.bundle import Bundle, ProfileSpec

_ELEMENTS = {1: "FLOAT", 7: "INT64", 10: "HALF"}
DataType = IntEnum("DataType", {"FLOAT": 0, "HALF": 1, "INT32": 3, "INT64": 8})
TensorIOMode = IntEnum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
TensorLocation = IntEnum("TensorLocation", ["DEVICE", "HOST"])
ExecutionContextAllocationStrategy = IntEnum(
    "ExecutionContextAllocationStrategy", {"STATIC": 0, "ON_PROFILE_CHANGE": 1, "USER_MANAGED": 2}
)
_Severity = IntEnum("_Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])


class ILogger(ABC):
    """Base of loggers."""

    @abstractmethod
    def log(self, severity: Any, text: str) -> None:
        """Hear a message."""


class IProgressMonitor:
    """Base of progress monitors."""


class FakeTensorrt:
    """The module, of a version, for one GPU. `capture` is how it takes being recorded: `well`,
    `False`, `raises`, `empty`, `frozen` (the graph repeats the last answer), `late` (it repeats its
    first), `partial` (it gives the first output only) or `noisy`."""

    ILogger, IProgressMonitor = ILogger, IProgressMonitor
    DataType, TensorIOMode, TensorLocation = DataType, TensorIOMode, TensorLocation
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
    MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE"])
    ProfilingVerbosity = IntEnum("ProfilingVerbosity", ["DETAILED"])
    BuilderFlag = IntEnum("BuilderFlag", ["TF32"])
    ComputeCapability = IntEnum("ComputeCapability", ["SM86", "SM89"])
    float32 = DataType.FLOAT

    def __init__(self, cuda: FakeCuda, version: str = "10.3.0") -> None:
        self.cuda, self.__version__ = cuda, version
        self.capture = "well"
        self.refuses: str | None = None
        """A call that answers False, or None where it would make something."""
        self.says: list[tuple[str, str]] = []
        """What is logged when an engine is loaded."""
        self.builds = 0
        self.timing_caches: list[bytes] = []
        self.memory = 1 << 20
        self.host_code: list[bool] = []
        self.Builder = lambda logger: _Builder(self, logger)
        self.OnnxParser = _Parser
        self.Runtime = lambda logger: _Runtime(self, logger)


class _Builder:
    def __init__(self, trt: FakeTensorrt, logger: Any) -> None:
        self._trt, self._logger = trt, logger
        self.create_builder_config = lambda: _Config(trt)
        self.create_optimization_profile = _Profile

    def create_network(self, flags: int) -> Any:
        assert flags == 2, "strongly typed"
        return _Network()

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        self._logger.log(_Severity.INFO, "building")
        config.progress_monitor.phase_start("Building engine", None, 1)
        if self._trt.refuses == "build_serialized_network":
            self._logger.log(_Severity.ERROR, "no kernel\n for this")
            return None
        self._trt.builds += 1
        head = {
            "version": self._trt.__version__, "sm": self._trt.cuda.capability,
            "profile": config.sizes, "sha256": hashlib.sha256(network.content).hexdigest(),
        }  # fmt: skip
        return b"ENGINE" + json.dumps(head).encode() + b"\n" + bytes(network.content)


class _Config:
    progress_monitor: Any = None
    profiling_verbosity: Any = None
    timing = SimpleNamespace(serialize=lambda: b"timing")

    def __init__(self, trt: FakeTensorrt) -> None:
        self._trt = trt
        self.sizes: dict[str, Any] = {}
        self.set_memory_pool_limit = self.set_flag = self.clear_flag = lambda *_: None
        self.get_timing_cache = lambda: self.timing
        self.set_timing_cache = lambda cache, ignore_mismatch: True

    def create_timing_cache(self, content: bytes) -> Any:
        self._trt.timing_caches.append(content)
        return self.timing

    def add_optimization_profile(self, profile: Any) -> int:
        self.sizes = profile.sizes
        return 0


class _Profile:
    def __init__(self) -> None:
        self.sizes: dict[str, Any] = {}

    def set_shape(self, name: str, *sizes: Any) -> None:
        self.sizes[name] = [list(size) for size in sizes]


class _Network:
    content = b""
    _graph: Any = None

    def fill(self, content: bytes) -> None:
        self.content, self._graph = content, onnx.load_from_string(content).graph
        self.num_inputs, self.num_outputs = len(self._graph.input), len(self._graph.output)
        self.num_layers = len(self._graph.node)

    def get_input(self, index: int) -> Any:
        value = self._graph.input[index]
        dims = value.type.tensor_type.shape.dim
        return SimpleNamespace(
            name=value.name, shape=_shape(value), get_dimension_name=lambda i: dims[i].dim_param
        )

    def get_layer(self, index: int) -> Any:
        return SimpleNamespace(type=SimpleNamespace(name=self._graph.node[index].op_type))


class _Parser:
    num_errors = 0

    def __init__(self, network: _Network, logger: Any) -> None:
        self._network = network

    def parse(self, content: bytes) -> bool:
        self._network.fill(content)
        return True


class _Runtime:
    engine_host_code_allowed = False

    def __init__(self, trt: FakeTensorrt, logger: Any) -> None:
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        self._trt.host_code.append(self.engine_host_code_allowed)
        for severity, text in self._trt.says:
            self._logger.log(_Severity[severity], text)
        if self._trt.refuses == "deserialize_cuda_engine" or not content.startswith(b"ENGINE"):
            self._logger.log(_Severity.ERROR, "the engine's magic tag\n does not match")
            return None
        line, _, graph = content.removeprefix(b"ENGINE").partition(b"\n")
        head = json.loads(line)
        if hashlib.sha256(graph).hexdigest() != head["sha256"]:
            raise Misuse("a damaged engine was loaded, which can crash TensorRT")
        here = (self._trt.__version__, self._trt.cuda.capability)
        if (head["version"], tuple(head["sm"])) != here:
            self._logger.log(_Severity.ERROR, "the engine is of another version or GPU")
            return None
        return FakeEngine(self._trt, self._logger, graph, head["profile"])


class FakeEngine:
    """A loaded engine."""

    def __init__(self, trt: FakeTensorrt, logger: Any, graph: bytes, profile: Any) -> None:
        self.trt, self.log = trt, _log(logger)
        model = onnx.load_from_string(graph).graph
        self._values = {value.name: value for value in (*model.input, *model.output)}
        self.inputs = [value.name for value in model.input]
        self.outputs = [value.name for value in model.output]
        """In the order of the graph, as the inputs."""
        # Not in the order of the graph: nobody has promised it.
        self._order = sorted(self._values, reverse=True)
        self._profile = profile
        self.num_io_tensors, self.num_layers = len(self._order), len(model.node) + 7
        self.device_memory_size_v2 = trt.memory
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def get_tensor_name(self, index: int) -> str:
        return str(self._order[index])

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[_ELEMENTS[self._values[name].type.tensor_type.elem_type]]

    def get_tensor_location(self, name: str) -> Any:
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return _shape(self._values[name])

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        if name not in self.inputs or name not in self._profile or index != 0:
            raise Misuse(f"{name} has no profile {index}")
        return [tuple(sizes) for sizes in self._profile[name]]

    def create_execution_context(
        self, strategy: Any = ExecutionContextAllocationStrategy.STATIC
    ) -> Any:
        if self.trt.refuses == "create_execution_context":
            return None
        managed = strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return FakeContext(self, managed=managed)

    def dtype(self, name: str) -> np.dtype[Any]:
        """NumPy's type of a tensor."""
        names = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64}
        return np.dtype(names[self.get_tensor_dtype(name).name])

    def limits(self, name: str) -> Any:
        """Smallest and largest sizes that an input may have."""
        shape = self.get_tensor_shape(name)
        sizes = self._profile.get(name, [shape] * 3)
        return sizes[0], sizes[2]

    def infer(self, feeds: dict[str, Any]) -> list[Any]:
        """What the graph says, in the order of its outputs."""
        return list(self.session.run(self.outputs, feeds))


def _log(logger: Any) -> Callable[[str], None]:
    return lambda text: logger.log(_Severity.ERROR, text)


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(-1 if dim.dim_param else int(dim.dim_value) for dim in dims)


ALIGNMENT = 256


class FakeContext:
    """A context of a `FakeEngine`. `managed`: it has no memory but what it is given, and needs the
    engine's in proportion to the size of its inputs."""

    def __init__(self, engine: Any, *, managed: bool = False) -> None:
        self._engine, self._trt, self._cuda = engine, engine.trt, engine.trt.cuda
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._settled = False
        """Whether it ran since its shapes were set: until then it cannot be recorded."""
        self._managed = managed
        self._needs: int | None = None
        """Bytes for its shapes; None until they were asked for."""
        self._memory = (0, 0)
        """Address and size."""

    def _refuses(self, call: str) -> bool:
        if self._trt.refuses != call:
            return False
        self._engine.log(f"{call}: an internal error")
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._refuses("set_input_shape") or name not in self._engine.inputs:
            return False
        low, high = self._engine.limits(name)
        inside = len(shape) == len(low) and np.all(
            (low <= np.array(shape)) & (shape <= np.array(high))
        )
        if not inside:
            raise Misuse(f"{name} {shape} is outside of the profile, which we must refuse")
        if self._shapes.get(name) != shape:
            self._shapes[name], self._settled, self._needs = shape, False, None
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        self._require_managed()
        if self._unset():
            raise Misuse(f"memory is asked for before the shapes of {self._unset()} are set")
        limits = self._engine.limits
        parts = [np.prod(shape) / np.prod(limits(n)[1]) for n, shape in self._shapes.items()]
        self._needs = int(np.ceil(self._trt.memory * max(parts, default=1.0)))
        told = self._trt.refuses != "update_device_memory_size_for_shapes"
        return self._needs if told else 0

    def set_device_memory(self, memory: int, size: int) -> None:
        self._require_managed()
        if memory % ALIGNMENT:
            raise Misuse("the memory of a context is not aligned")
        if self._needs is None or size < self._needs:
            raise Misuse(f"a context has {size} bytes and needs {self._needs}")
        self._cuda.find(self._cuda.device, memory, size)
        self._memory = (memory, size)

    def _require_managed(self) -> None:
        if not self._managed:
            raise Misuse("the memory of a context is TensorRT's")

    def _work_in_memory(self) -> None:
        """Leave what lies between layers there; it is gone when the memory is used elsewhere."""
        if self._managed:
            address, size = self._memory
            self._cuda.find(self._cuda.device, address, size)[: self._needs] = 0xAB

    def infer_shapes(self) -> list[str]:
        return ["a"] if self._trt.refuses == "infer_shapes" else self._unset()

    @property
    def all_binding_shapes_specified(self) -> bool:
        return self._trt.refuses != "all_binding_shapes_specified" and not self._unset()

    def _unset(self) -> list[str]:
        free = [n for n in self._engine.inputs if -1 in self._engine.get_tensor_shape(n)]
        return [name for name in free if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if self._unset():
            return self._engine.get_tensor_shape(name)  # type: ignore[no-any-return]
        engine = self._engine  # ones are lengths too
        feeds = {n: np.ones(self._shapes[n], engine.dtype(n)) for n in engine.inputs}
        return tuple(engine.infer(feeds)[engine.outputs.index(name)].shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        if self._refuses("set_tensor_address"):
            return False
        if address % ALIGNMENT:
            raise Misuse(f"the address of {name} is not aligned")
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if type(stream_handle) is not int:
            raise TypeError("incompatible function arguments")
        if self._unset():
            raise Misuse(f"set_input_shape is missing for {self._unset()}")
        names = [*self._engine.inputs, *self._engine.outputs]
        unset = [name for name in names if name not in self._addresses]
        if unset:
            raise Misuse(f"set_tensor_address is missing for {unset}")
        if self._managed and (self._needs is None or self._memory[1] < self._needs):
            raise Misuse("a context has no memory for its shapes")
        if self._refuses("execute_async_v3"):
            return False
        stream = self._cuda.handles[stream_handle]
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        if stream.recording is not None:
            return self._record(stream, shapes, addresses)
        self._settled = True
        outputs = self._engine.outputs
        (status,) = self._cuda.enqueue(stream, lambda: self._compute(shapes, addresses, outputs))
        return bool(status == 0)

    def _record(self, stream: Any, shapes: Any, addresses: Any) -> bool:
        mode = self._trt.capture
        if mode == "raises":
            raise RuntimeError("operation not permitted when stream is capturing")
        if mode == "False" or not self._settled:
            self._engine.log("the first run after a change of shapes cannot be recorded")
            return False
        frozen = self._answers(shapes, addresses) if mode == "frozen" else None

        def work() -> None:
            nonlocal frozen
            if self._shapes != shapes:
                raise Misuse("a recorded context has taken other shapes meanwhile")
            if mode == "late" and frozen is None:
                frozen = self._answers(shapes, addresses)
            outputs = self._engine.outputs[: 1 if mode == "partial" else None]
            self._compute(shapes, addresses, outputs, frozen, 1.01 if mode == "noisy" else 1.0)

        if mode != "empty":
            self._cuda.enqueue(stream, work)
        return True

    def _read(self, name: str, shapes: Any, addresses: Any) -> Any:
        shape = shapes.get(name, self._engine.get_tensor_shape(name))
        dtype = self._engine.dtype(name)
        size = int(np.prod(shape)) * dtype.itemsize
        memory = self._cuda.find(self._cuda.device, addresses[name], size)
        return memory.view(dtype).reshape(shape).copy()

    def _answers(self, shapes: Any, addresses: Any) -> list[Any]:
        feeds = {name: self._read(name, shapes, addresses) for name in self._engine.inputs}
        return self._engine.infer(feeds)  # type: ignore[no-any-return]

    def _compute(
        self, shapes: Any, addresses: Any, outputs: Any, frozen: Any = None, factor: float = 1
    ) -> None:
        answers = self._answers(shapes, addresses) if frozen is None else frozen
        self._work_in_memory()
        for name, answer in zip(outputs, answers, strict=False):  # some only, if it lies
            content = np.ascontiguousarray(answer * np.asarray(factor, answer.dtype))
            memory = self._cuda.find(self._cuda.device, addresses[name], content.nbytes)
            memory[:] = content.reshape(-1).view(np.uint8)


LSTM = "a.latency.fp32"
LONGEST = 200
"""Frames that engines of these graphs take."""
Profile = dict[str, ProfileSpec]


class Machine:
    """The fakes, in the places of the real modules, and graphs of a tiny bundle to run on them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, make_bundle: Callable[..., Path]) -> None:
        self._make_bundle, self.cuda = make_bundle, FakeCuda()
        self.trt = FakeTensorrt(self.cuda)
        self.rtx = FakeTensorrt(self.cuda, "1.7.1")
        for name, module in {
            "cuda.bindings.runtime": self.cuda, "tensorrt": self.trt, "tensorrt_rtx": self.rtx
        }.items():  # fmt: skip
            # torch looks for a module's specification, whether it has one or not.
            monkeypatch.setattr(module, "__spec__", ModuleSpec(name, None), raising=False)
            monkeypatch.setitem(sys.modules, name, module)

    def graph(self, name: str = LSTM) -> tuple[bytes, Profile]:
        """A graph by the beginning of its file's name, and its profile."""
        return small_graph(self._make_bundle, name)

    def engine(self, graph: bytes, profile: Profile) -> FakeEngine:
        """A loaded engine of a graph."""
        built = build_engine(graph, profile, flavour="tensorrt")
        runtime = make_runtime(self.trt, "tensorrt")
        engine: FakeEngine = load_engine(runtime, built.content)[0]
        return engine

    def runner(
        self, name: str = LSTM, *, graph: bytes | None = None, **options: Any
    ) -> EngineRunner:
        """A runner of a graph by its name, or of another one with the same profile."""
        content, profile = self.graph(name)
        engine = self.engine(graph or content, profile)
        names = [*engine.inputs, *engine.outputs]
        return EngineRunner(self.trt, Cuda(), engine, names, **options)

    def require_right(self, run: EngineRunner, inputs: dict[str, Any], name: str = LSTM) -> None:
        """Fail unless the runner says what ONNX Runtime says of the graph."""
        found, wanted = run(inputs), _session(self.graph(name)[0]).run(None, inputs)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def small_graph(make_bundle: Callable[..., Path], name: str) -> tuple[bytes, Profile]:
    """A graph as the exporter writes it, by the beginning of its file's name, and its profile."""
    bundle = Bundle(make_bundle(precisions=("fp32", "fp16")))
    entry = next(e for e in bundle.manifest.graphs if e.file.startswith(f"{name}."))
    specs = {
        m: msgspec.structs.replace(spec, verified_length=LONGEST)
        for m, spec in bundle.manifest.modalities.items()
    }
    return bundle.graph(entry), profile_of(entry, specs)


@cache
def _session(graph: bytes) -> Any:
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def machine(monkeypatch: pytest.MonkeyPatch, make_bundle: Callable[..., Path]) -> Iterator[Machine]:
    """To be made a fixture; nothing may be queued or held when the test is over."""
    made = Machine(monkeypatch, make_bundle)
    yield made
    assert made.cuda.pending == 0, "work is queued that nobody waits for"
    gc.collect()
    assert made.cuda.held == 0, "memory, streams or graphs are not given back"
    made.cuda.freed.clear()  # the module stays with its logger, for which there is no end
