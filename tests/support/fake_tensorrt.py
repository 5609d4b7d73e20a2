"""Stands in for TensorRT's module: builds, loads and runs engines on the memory of `fake_cuda`.

What an engine computes, ONNX Runtime computes, when the stream gets there. Names are those that
every version has, see `tensorrt_names.json`; what TensorRT calls undefined ends the test.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fake_cuda import FakeCuda, Misuse
from fake_engine import FakeContext

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

    def create_network(self, flags: int) -> Any:
        assert flags == 2, "strongly typed"
        return _Network()

    def create_builder_config(self) -> Any:
        return _Config(self._trt)

    def create_optimization_profile(self) -> Any:
        return _Profile()

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        self._logger.log(_Severity.INFO, "building")
        config.progress_monitor.phase_start("Building engine", None, 1)
        if self._trt.refuses == "build_serialized_network":
            self._logger.log(_Severity.ERROR, "no kernel\n for this")
            return None
        self._trt.builds += 1
        head = {
            "version": self._trt.__version__, "sm": self._trt.cuda.capability,
            "profile": config.profile.sizes if config.profile else {},
            "sha256": hashlib.sha256(network.content).hexdigest(),
        }  # fmt: skip
        return b"ENGINE" + json.dumps(head).encode() + b"\n" + bytes(network.content)


class _Config:
    def __init__(self, trt: FakeTensorrt) -> None:
        self._trt, self.profile, self.progress_monitor = trt, None, None
        self._timing = SimpleNamespace(serialize=lambda: b"timing")
        self.profiling_verbosity: Any = None

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        pass

    def set_flag(self, flag: Any) -> None:
        pass

    clear_flag = set_flag

    def create_timing_cache(self, content: bytes) -> Any:
        self._trt.timing_caches.append(content)
        return self._timing

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        return True

    def get_timing_cache(self) -> Any:
        return self._timing

    def add_optimization_profile(self, profile: Any) -> int:
        self.profile = profile
        return 0


class _Profile:
    def __init__(self) -> None:
        self.sizes: dict[str, Any] = {}

    def set_shape(self, name: str, minimum: Any, optimum: Any, maximum: Any) -> None:
        self.sizes[name] = [list(minimum), list(optimum), list(maximum)]


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
    def __init__(self, network: _Network, logger: Any) -> None:
        self._network = network
        self.num_errors = 0

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
        if (head["version"], tuple(head["sm"])) != (
            self._trt.__version__,
            self._trt.cuda.capability,
        ):
            self._logger.log(_Severity.ERROR, "the engine is of another version or GPU")
            return None
        return FakeEngine(self._trt, self._logger, graph, head["profile"])


class FakeEngine:
    """A loaded engine."""

    def __init__(self, trt: FakeTensorrt, logger: Any, graph: bytes, profile: Any) -> None:
        self.trt, self.log = trt, _say(logger)
        model = onnx.load_from_string(graph).graph
        self._values = {value.name: value for value in (*model.input, *model.output)}
        self._inputs = [value.name for value in model.input]
        # Not in the order of the graph: nobody has promised it.
        self._order = sorted(self._values, reverse=True)
        self._profile = profile
        self.num_io_tensors, self.num_layers = len(self._order), len(model.node) + 7
        self.device_memory_size_v2 = trt.memory
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    @property
    def inputs(self) -> list[str]:
        """Names, in the order of the graph."""
        return self._inputs

    @property
    def outputs(self) -> list[str]:
        """Names, in the order of the graph."""
        return [name for name in self._values if name not in self._inputs]

    def get_tensor_name(self, index: int) -> str:
        return str(self._order[index])

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[_ELEMENTS[self._values[name].type.tensor_type.elem_type]]

    def get_tensor_location(self, name: str) -> Any:
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return _shape(self._values[name])

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        if name not in self._inputs or name not in self._profile or index != 0:
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


def _say(logger: Any) -> Callable[[str], None]:
    return lambda text: logger.log(_Severity.ERROR, text)


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(-1 if dim.dim_param else int(dim.dim_value) for dim in dims)
