"""Runs a loaded engine: arrays in, arrays out, by a CUDA graph for shapes that come again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends.cuda_memory import Cuda
from ifmmin.runtime.backends.engine_buffers import Buffers
from ifmmin.runtime.backends.engine_execution import Execution
from ifmmin.runtime.backends.engine_graphs import Recorded, RecordedGraphs, UnprovenError, record
from ifmmin.runtime.backends.engine_memory import ContextMemory
from ifmmin.runtime.backends.engine_tensors import Shapes, conforming, read_tensors
from ifmmin.runtime.errors import EngineError

Arrays = list[NDArray[Any]]
GRAPH_BYTES = 256 << 20
"""Each recorded shape has a context of its own, and each context its own memory for what lies
between layers. Engines for large batches, which gain least, need too much of it: they record
nothing, and take memory as their batches need it, see `engine_memory`."""


class EngineRunner:
    """A Runner over an engine. Not for use from two threads at once.

    names: of the graph's inputs and outputs, in its order. cuda_graphs: record the work for shapes
    that come again, see `engine_graphs`. Raises EngineError where TensorRT has no memory for it, or
    for inputs that we cannot serve.
    """

    def __init__(
        self,
        trt: Any,
        cuda: Cuda,
        engine: Any,
        names: Sequence[str],
        *,
        cuda_graphs: bool = True,
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
        self._graphs = RecordedGraphs()
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

    def _replay(self, graph: Recorded, arrays: Sequence[NDArray[Any]]) -> Arrays:
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
            if _same(outputs, expected):
                raise UnprovenError
            execution = Execution(self._engine, self._buffers)
            self._run(execution, shapes, halves)
            graph = record(self._cuda, self._stream, execution, self._buffers.generation)
            for given, wanted in ((arrays, outputs), (halves, expected)):
                execution.spoil_outputs(self._stream)
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
    """Equal but for the order in which a kernel may add; what is not a number equals itself."""
    return all(
        np.allclose(a, b, rtol=0, atol=_tolerance(b), equal_nan=True)
        for a, b in zip(first, second, strict=True)
    )


def _tolerance(wanted: NDArray[Any]) -> float:
    finite = np.abs(wanted[np.isfinite(wanted)])
    return 1e-3 * float(finite.max(initial=0.0))
