"""Requests and responses of the Open Inference Protocol, whatever carries them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from ..errors import InputError

DATATYPES = {
    "BOOL": "|b1", "UINT8": "|u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "|i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BYTES": "|O",
}  # fmt: skip
"""Names of the protocol, and numpy's, of bytes in the order of the protocol."""


class RefusedError(InputError):
    """A request that is not answered; `status` is that of HTTP."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        """400: not usable; 401, 403: not allowed; 404: no such model; 413: too large; 429: too many
        wait; 503: the server stops."""


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may ask for."""

    body: int = 16 << 20
    """Bytes of a request."""
    message: int = 1 << 20
    """Bytes of one message to a listener."""
    frames: int = 20_000
    """Of one modality."""
    seconds: float = 300
    """Of sound in one request."""
    text: int = 100_000
    """Characters."""
    queue: int = 256
    """Requests that wait; one more is refused."""
    sequences: int = 256
    """Streams that are open, and listeners."""
    idle: float = 300
    """Seconds after which a stream that nobody pushes to is forgotten."""


class TensorSpec(NamedTuple):
    """An input or output of a model."""

    name: str
    datatype: str
    """A name of `DATATYPES`."""
    shape: tuple[int, ...]
    """-1: any."""
    optional: bool = False


class Tensor(NamedTuple):
    """The value of an input or output."""

    name: str
    datatype: str
    """A name of `DATATYPES`."""
    array: NDArray[Any]
    """Of `BYTES`: of bytes objects."""


@dataclass(frozen=True)
class InferRequest:
    """What a client asks of a model."""

    model: str
    inputs: Mapping[str, Tensor]
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Such as sequence_id, sequence_start and sequence_end."""
    outputs: tuple[str, ...] = ()
    """Those wanted; none: all of them."""


@dataclass(frozen=True)
class InferResponse:
    """A model's answer."""

    model: str
    outputs: tuple[Tensor, ...]
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Model(Protocol):
    """What the server answers with."""

    @property
    def name(self) -> str:
        """By which clients ask for it."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it answers; those that are optional only where they are asked for."""
        ...

    @property
    def sequential(self) -> bool:
        """Whether requests of one sequence go on from each other."""
        ...

    @property
    def batches(self) -> bool:
        """Whether several requests together take less time than one after the other."""
        ...

    def answer(self, requests: Sequence[InferRequest]) -> list[InferResponse | Exception]:
        """Answers, in order, in a thread of the scheduler; an error is of its request alone."""
        ...
