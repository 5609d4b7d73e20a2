"""One execution context of TensorRT: sizes and addresses set, work queued, every answer checked."""

from __future__ import annotations

from typing import Any

from ifmmin.runtime.backends.cuda_memory import Owned
from ifmmin.runtime.backends.engine_buffers import Buffers
from ifmmin.runtime.backends.engine_memory import ContextMemory
from ifmmin.runtime.backends.engine_tensors import EngineTensor, Shapes, Sizes
from ifmmin.runtime.errors import EngineError

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

    def queue(self, stream: Owned) -> None:
        """Queue everything: inputs to the device, the engine, outputs to the host."""
        count = len(self._inputs)
        for name, nbytes in self._sizes[:count]:
            self._buffers.copy_in(name, nbytes, stream)
        _require(self._context.execute_async_v3(int(stream.handle)), "execute_async_v3")
        for name, nbytes in self._sizes[count:]:
            self._buffers.copy_out(name, nbytes, stream)

    def spoil_outputs(self, stream: Owned) -> None:
        """Overwrite the outputs in both places."""
        for name, nbytes in self._sizes[len(self._inputs) :]:
            self._buffers.spoil(name, nbytes, stream)


def _require(answer: bool, call: str) -> None:
    # `is not True` would refuse NumPy's; a None, as a wrong binding gives, is refused here.
    if not answer:
        raise EngineError(f"TensorRT refuses {call}; {_LOG}")
