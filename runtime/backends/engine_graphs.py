"""Work of an engine recorded as CUDA graphs: which shapes are worth it, and how one is recorded.

A recorded graph launches a few hundred kernels at once, where plain work launches one by one; it is
for one shape only. The rule: a shape is recorded when it comes for the third time and is among the
last 64 different ones; 4 are kept, and a shape takes the place of the one that came least once it
has come twice as often. Utterances whose lengths all differ are thus never recorded, chunks of a
stream at their third.

Not every engine can be recorded, and one that cannot may fail in silence: TensorRT may refuse the
work and leave an empty graph, which finds the last answer in its place. So each recorded graph is
compared with plain work before it is used, see `engine_runner`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from ifmmin.runtime.backends.cuda_memory import Cuda, Owned
from ifmmin.runtime.backends.engine_execution import Execution
from ifmmin.runtime.backends.engine_tensors import Shapes

_CALLS = 3
_KEPT = 4
_REMEMBERED = 64


class UnprovenError(Exception):
    """Both inputs have the same answer, so that a comparison of answers says nothing."""


@dataclass(frozen=True)
class Recorded:
    """The work for one shape."""

    graph: Owned
    execution: Execution
    """A context that has seen no other shape: sizes that it keeps on the device are in use."""
    generation: int
    """Of the buffers whose addresses are in the graph."""


def record(cuda: Cuda, stream: Owned, execution: Execution, generation: int) -> Recorded:
    """Record what an execution queues; it has to have run once with its shapes."""
    graph = cuda.record(stream, lambda: execution.queue(stream))
    return Recorded(graph, execution, generation)


class RecordedGraphs:
    """The recorded shapes, and how often each shape came."""

    def __init__(self) -> None:
        self._recorded: dict[Shapes, Recorded] = {}
        self._calls: OrderedDict[Shapes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._recorded)

    def clear(self) -> None:
        """Forget all."""
        self._recorded.clear()
        self._calls.clear()

    def find(self, shapes: Shapes, generation: int) -> Recorded | None:
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

    def keep(self, shapes: Shapes, recorded: Recorded) -> None:
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
