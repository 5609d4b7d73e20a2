"""The execution context of `fake_tensorrt`: it reads and writes memory when its turn in the stream
comes, and ends the test where a real one would read or write what it must not."""

from __future__ import annotations

from typing import Any

import numpy as np
from fake_cuda import Misuse

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
        if len(shape) != len(low) or any(
            not a <= n <= b for a, n, b in zip(low, shape, high, strict=True)
        ):
            raise Misuse(
                f"{name} {shape} is outside of the profile, which we must refuse ourselves"
            )
        if self._shapes.get(name) != shape:
            self._shapes[name], self._settled, self._needs = shape, False, None
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        self._require_managed()
        if self._unset():
            raise Misuse(f"memory is asked for before the shapes of {self._unset()} are set")
        parts = [
            np.prod(shape) / np.prod(self._engine.limits(name)[1])
            for name, shape in self._shapes.items()
        ]
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
        return [
            name
            for name in self._engine.inputs
            if -1 in self._engine.get_tensor_shape(name) and name not in self._shapes
        ]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if self._unset():
            return self._engine.get_tensor_shape(name)  # type: ignore[no-any-return]
        index = self._engine.outputs.index(name)
        feeds = {
            # Ones are lengths too.
            n: np.ones(self._shapes[n], self._engine.dtype(n))
            for n in self._engine.inputs
        }
        return tuple(self._engine.infer(feeds)[index].shape)

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
