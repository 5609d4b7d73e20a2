"""Execution of a loaded engine: arrays in, arrays out, by CUDA graphs for shapes that come again.

A recorded graph launches a few hundred kernels at once, where plain work launches one by one; it is
for one shape only. The rule: a shape is recorded when it comes for the third time and is among the
last 64 different ones; 4 are kept, and a shape takes the place of the one that came least once it
has come twice as often. Utterances whose lengths all differ are thus never recorded, chunks of a
stream at their third.

Not every engine can be recorded, and one that cannot may fail in silence: TensorRT may refuse the
work and leave an empty graph, which finds the last answer in its place. So each recorded graph is
compared with plain work before it is used.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..prediction import allowed_differences, largest_differences
from .cuda import Cuda, CudaHandle
from .tensorrt_buffers import (
    Buffers,
    ContextMemory,
    EngineTensor,
    Shapes,
    Sizes,
    conforming,
    read_tensors,
)

_LOG = "what TensorRT logged has the reason"


class Execution:
    """A context of an engine over buffers that it shares with the engine's other contexts.

    memory: of this context alone, for what lies between layers; None: TensorRT's own, for the
    largest sizes. Raises EngineError where TensorRT has no memory for a context, or refuses a call.
    """

    def __init__(self, engine: Any, buffers: Buffers, memory: ContextMemory | None = None) -> None:
        strategy = () if memory is None else (memory.strategy,)
        self._context = engine.create_execution_context(*strategy)
        if self._context is None:
            raise EngineError(
                "TensorRT has no memory to run the engine; close other programs that use the GPU"
            )
        self._buffers = buffers
        self._memory = memory
        tensors = buffers.tensors.values()
        self._inputs: list[EngineTensor] = [t for t in tensors if t.is_input]
        self._outputs: list[EngineTensor] = [t for t in tensors if not t.is_input]
        self._shapes: Shapes | None = None
        self._generation = -1
        self._sizes: list[tuple[str, int]] = []
        self.output_shapes: Shapes = ()

    def prepare(self, shapes: Shapes) -> None:
        """Get ready for inputs of these shapes; cheap when they are those of the last call."""
        if shapes != self._shapes:
            self._shapes = None
            self._set_shapes(shapes)
            self._shapes = shapes
        if self._generation != self._buffers.generation:
            self._set_addresses()

    def _set_shapes(self, shapes: Shapes) -> None:
        for tensor, shape in zip(self._inputs, shapes, strict=True):
            _require(
                self._context.set_input_shape(tensor.name, shape),
                f"set_input_shape({tensor.name!r}, {shape})",
            )
        missing = list(self._context.infer_shapes())
        if missing or not self._context.all_binding_shapes_specified:
            raise EngineError(f"TensorRT cannot tell the shapes of {', '.join(missing) or 'all'}")
        self.output_shapes = tuple(self._output_shape(tensor.name) for tensor in self._outputs)
        pairs = zip([*self._inputs, *self._outputs], (*shapes, *self.output_shapes), strict=True)
        self._sizes = [(tensor.name, tensor.nbytes(shape)) for tensor, shape in pairs]
        for name, nbytes in self._sizes:
            self._buffers.require(name, nbytes)
        if self._memory is not None:
            self._memory.fit(self._context)

    def _output_shape(self, name: str) -> Sizes:
        shape = tuple(int(size) for size in self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise EngineError(f"the shape {shape} of output {name} depends on values of the input")
        return shape

    def _set_addresses(self) -> None:
        for name in self._buffers.tensors:
            _require(
                self._context.set_tensor_address(name, self._buffers.address(name)),
                f"set_tensor_address({name!r})",
            )
        self._generation = self._buffers.generation

    def queue(self, stream: CudaHandle) -> None:
        """Queue everything: inputs to the device, the engine, outputs to the host."""
        count = len(self._inputs)
        for name, nbytes in self._sizes[:count]:
            self._buffers.copy_in(name, nbytes, stream)
        _require(self._context.execute_async_v3(int(stream.handle)), "execute_async_v3")
        for name, nbytes in self._sizes[count:]:
            self._buffers.copy_out(name, nbytes, stream)

    def poison_outputs(self, stream: CudaHandle) -> None:
        """Overwrite the outputs in both places."""
        for name, nbytes in self._sizes[len(self._inputs) :]:
            self._buffers.poison(name, nbytes, stream)


def _require(answer: bool, call: str) -> None:
    # `is not True` would refuse NumPy's; a None, as a wrong binding gives, is refused here.
    if not answer:
        raise EngineError(f"TensorRT refuses {call}; {_LOG}")


_CALLS = 3
_KEPT = 4
_REMEMBERED = 64


class UnprovenError(Exception):
    """Both inputs have the same answer, so that a comparison of answers says nothing."""


@dataclass(frozen=True)
class RecordedGraph:
    """The work for one shape."""

    graph: CudaHandle
    execution: Execution
    """A context that has seen no other shape: sizes that it keeps on the device are in use."""
    generation: int
    """Of the buffers whose addresses are in the graph."""


def record(cuda: Cuda, stream: CudaHandle, execution: Execution, generation: int) -> RecordedGraph:
    """Record what an execution queues; it has to have run once with its shapes."""
    graph = cuda.record(stream, lambda: execution.queue(stream))
    return RecordedGraph(graph, execution, generation)


class GraphCache:
    """The recorded shapes, and how often each shape came."""

    def __init__(self) -> None:
        self._recorded: dict[Shapes, RecordedGraph] = {}
        self._calls: OrderedDict[Shapes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._recorded)

    def clear(self) -> None:
        """Forget all."""
        self._recorded.clear()
        self._calls.clear()

    def find(self, shapes: Shapes, generation: int) -> RecordedGraph | None:
        """The graph of a shape that comes now, unless its buffers have moved since."""
        self._count(shapes)
        found = self._recorded.get(shapes)
        if found is not None and found.generation != generation:
            self._recorded.clear()  # all are of the same buffers
            return None
        return found

    def wants(self, shapes: Shapes) -> bool:
        """Whether a shape has come often enough to be recorded."""
        calls = self._calls.get(shapes, 0)
        if calls == 0 or calls % _CALLS:
            return False
        return len(self._recorded) < _KEPT or calls >= 2 * self._uses(self._least())

    def keep(self, shapes: Shapes, recorded: RecordedGraph) -> None:
        """Use it from now on."""
        if shapes not in self._recorded and len(self._recorded) >= _KEPT:
            del self._recorded[self._least()]
        self._recorded[shapes] = recorded

    def _count(self, shapes: Shapes) -> None:
        self._calls[shapes] = self._calls.pop(shapes, 0) + 1
        while len(self._calls) > _REMEMBERED:
            self._calls.popitem(last=False)

    def _least(self) -> Shapes:
        return min(self._recorded, key=self._uses)

    def _uses(self, shapes: Shapes) -> int:
        return self._calls.get(shapes, 0)


Arrays = list[NDArray[Any]]
GRAPH_BYTES = 256 << 20
"""Each recorded shape has a context of its own, and each context its own memory for what lies
between layers. Engines for large batches, which gain least, need too much of it: they record
nothing, and take memory as their batches need it, see `ContextMemory`."""


class EngineRunner:
    """A Runner over an engine. Not for use from two threads at once.

    names: of the graph's inputs and outputs, in its order. cuda_graphs: record the work for shapes
    that come again, see `GraphCache`. Raises EngineError where TensorRT has no memory for it,
    or for inputs that we cannot serve.
    """

    def __init__(
        self, trt: Any, cuda: Cuda, engine: Any, names: Sequence[str], *, cuda_graphs: bool = True
    ) -> None:
        self._cuda = cuda
        self._engine = engine
        cuda.use()
        tensors = read_tensors(trt, engine, names)
        self.inputs = [tensor for tensor in tensors if tensor.is_input]
        self._outputs = [tensor for tensor in tensors if not tensor.is_input]
        self._stream = cuda.stream()
        self._buffers = Buffers(cuda, tensors)
        needed = int(engine.device_memory_size_v2)
        memory = ContextMemory(trt, cuda, needed) if needed > GRAPH_BYTES else None
        self._plain = Execution(engine, self._buffers, memory)
        self._graphs = GraphCache()
        self.notes: list[str] = []
        """What the user should know, such as why there are no CUDA graphs."""
        self._busy = False
        self._recording = cuda_graphs
        if cuda_graphs and memory is not None:
            self.give_up(f"each would need {needed >> 20} MB of the GPU's memory")

    @property
    def recorded(self) -> int:
        """How many shapes have a CUDA graph."""
        return len(self._graphs)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs in the graph's order, fresh arrays; InputError for shapes it was not built for.

        EngineError where TensorRT or CUDA refuses; the next call starts from a clean state.
        """
        arrays = conforming(self.inputs, inputs)
        shapes = tuple(array.shape for array in arrays)
        self._cuda.use()
        graph = self._graphs.find(shapes, self._buffers.generation)
        if graph is not None:
            return self._replay(graph, arrays)
        outputs = self._run(self._plain, shapes, arrays)
        if self._recording and self._graphs.wants(shapes):
            self._try_to_record(shapes, arrays, outputs)
        return outputs

    def warm_up(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run once and record that shape, so that what cannot be recorded is known before use."""
        arrays = conforming(self.inputs, inputs)
        shapes = tuple(array.shape for array in arrays)
        self._cuda.use()
        outputs = self._run(self._plain, shapes, arrays)
        if self._recording:
            self._try_to_record(shapes, arrays, outputs)
        return outputs

    def give_up(self, reason: str) -> None:
        """Go on without CUDA graphs, and say so."""
        self._recording = False
        self._graphs.clear()
        note = f"runs without CUDA graphs, a little slower: {reason}"
        self.notes.append(note)
        logging.getLogger("ifmmin.tensorrt").warning("%s", note)

    def _run(self, execution: Execution, shapes: Shapes, arrays: Sequence[NDArray[Any]]) -> Arrays:
        self._settle()
        execution.prepare(shapes)
        self._fill(arrays)
        self._busy = True
        try:
            execution.queue(self._stream)
        except EngineError:
            self._settle()  # the inputs are on their way; nothing may be freed before
            raise
        return self._fetch(execution)

    def _replay(self, graph: RecordedGraph, arrays: Sequence[NDArray[Any]]) -> Arrays:
        self._settle()
        self._fill(arrays)
        self._busy = True
        self._cuda.launch(graph.graph, self._stream)
        return self._fetch(graph.execution)

    def _settle(self) -> None:
        """Wait for what a call has left that was interrupted; buffers may be written to then."""
        if self._busy:
            self._cuda.synchronise(self._stream)
            self._busy = False

    def _fill(self, arrays: Sequence[NDArray[Any]]) -> None:
        for tensor, array in zip(self.inputs, arrays, strict=True):
            self._buffers.view(tensor.name, array.shape)[...] = array

    def _fetch(self, execution: Execution) -> Arrays:
        self._settle()
        pairs = zip(self._outputs, execution.output_shapes, strict=True)
        return [self._buffers.view(tensor.name, shape).copy() for tensor, shape in pairs]

    def _try_to_record(self, shapes: Shapes, arrays: Arrays, outputs: Arrays) -> None:
        """Keep a CUDA graph that gives the plain answers to two inputs; else give graphs up."""
        # Half of every number: another input that the graph takes, with another answer.
        halves = [x / 2 if np.issubdtype(x.dtype, np.floating) else x for x in arrays]
        halves = [half.astype(x.dtype) for half, x in zip(halves, arrays, strict=True)]
        try:
            expected = self._run(self._plain, shapes, halves)
            known = _same(outputs, outputs) and _same(expected, expected)
            if not known or _same(outputs, expected):
                raise UnprovenError
            execution = Execution(self._engine, self._buffers)
            self._run(execution, shapes, halves)
            graph = record(self._cuda, self._stream, execution, self._buffers.generation)
            for given, wanted in ((arrays, outputs), (halves, expected)):
                execution.poison_outputs(self._stream)
                _require_same(self._replay(graph, given), wanted)
        except UnprovenError:
            return
        # Whatever goes wrong here, there is an answer already, and plain calls may go on.
        except Exception as error:
            self.give_up(str(error))
            return
        self._graphs.keep(shapes, graph)


def _require_same(found: Arrays, wanted: Arrays) -> None:
    if not _same(found, wanted):
        raise EngineError("the recorded graph gives another answer than the engine")


def _same(first: Arrays, second: Arrays) -> bool:
    """Equal but for the order in which a kernel may add; what is not finite equals nothing."""
    pairs = [(a.reshape(-1), b.reshape(-1)) for a, b in zip(first, second, strict=True)]
    return all(largest_differences(a, b) <= allowed_differences(b, 0.0, 1e-3) for a, b in pairs)
