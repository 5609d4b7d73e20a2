"""Front-end: the protocol that makes features of a signal, and how one is opened."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendUnavailable, BundleError, InputError, one_line
from .spec import FrontEndSpec, Read

Features = NDArray[np.float32]
"""(T, D)."""
State = dict[str, NDArray[Any]]
"""What a stream of signal has left in a front-end, by name."""


class FrontEnd(Protocol):
    """Makes features of one modality. A user's own extractor is one: docs/frontends.md.

    `whole` leaves the stream alone and may be called from many threads. A shallow copy is, once it
    is reset, another stream over the same graphs.
    """

    def describe(self) -> FrontEndSpec:
        """What it is, by which a bundle refuses the features of another."""
        ...

    def whole(self, signal: Any) -> Features:
        """Features (T, D) of a whole signal; (0, D) where nothing is in it: silence, no words."""
        ...

    def stream(self, signal: Any, *, last: bool = False) -> Features:
        """The frames (N, D) that this piece of signal completed; `last`: no other follows."""
        ...

    def reset(self, state: State | None = None) -> None:
        """Begin anew, or where `state` left off; InputError, and nothing replaced, if it is not
        one of this front-end's."""
        ...

    def state(self) -> State:
        """What `reset` goes on from: copies."""
        ...


_MODULES = {
    "ge2e": "ge2e", "opensmile": "opensmile", "minilm": "words", "bert": "words",
    "openface": "openface", "blendshapes": "blendshapes",
}  # fmt: skip
"""Module of each kind; it has a function `open(spec, read, threads)`."""


def open_frontend(spec: FrontEndSpec, read: Read, threads: int = 1) -> FrontEnd:
    """The front-end of a specification; `read` gives the contents of its files.

    Raises BackendUnavailable for a kind that is not built in, and what opening it raises.
    """
    if spec.kind not in _MODULES:
        raise BackendUnavailable(
            f"this version of ifmmin has no front-end {spec.kind}, only {', '.join(_MODULES)}; "
            f"give your own: Recognizer(frontends={{...}})"
        )
    module = import_module(f".{_MODULES[spec.kind]}", __package__)
    frontend: FrontEnd = module.open(spec, read, threads)
    return frontend


def session(content: bytes, threads: int = 1) -> Any:
    """An ONNX Runtime session on the CPU for a graph of a front-end.

    Raises BundleError where the content is no graph; so does its `run` where the graph does not
    take what it is given, as one of another front-end.
    """
    return _Session(content, threads)


class _Session:
    def __init__(self, content: bytes, threads: int) -> None:
        try:
            self._session = _onnxruntime_session(content, threads)
        except Exception as error:  # the types that it raises are private
            raise BundleError(
                f"a graph of a front-end cannot be opened ({one_line(error)}); make the front-end "
                "again"
            ) from error
        self.get_inputs, self.get_outputs = self._session.get_inputs, self._session.get_outputs

    def run(self, names: None, given: Mapping[str, NDArray[Any]]) -> Any:
        try:
            return self._session.run(names, given)
        except Exception as error:
            raise BundleError(
                f"a graph of a front-end cannot be run ({one_line(error)}); make the front-end "
                "again"
            ) from error


def _onnxruntime_session(content: bytes, threads: int) -> Any:
    import onnxruntime as ort  # slow to import

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def require_state(state: Mapping[str, Any], like: State) -> State:
    """Copies of the arrays of `state`, which have the names, types and shapes of those of `like`;
    InputError otherwise. A dimension of 0 in `like` stands for any size."""
    given: object = state
    if not isinstance(given, Mapping) or state.keys() != like.keys():
        raise InputError(f"state of a front-end: wanted {', '.join(like) or 'nothing'} in it")
    for name, wanted in like.items():
        array = state[name]
        fits = (
            isinstance(array, np.ndarray)
            and array.dtype == wanted.dtype
            and array.ndim == wanted.ndim
            and all(m in (0, n) for n, m in zip(array.shape, wanted.shape, strict=True))
            and (array.dtype.kind != "f" or bool(np.isfinite(array).all()))
        )
        if not fits:
            raise InputError(
                f"state of a front-end: {name} is not finite, or not {wanted.dtype} "
                f"{wanted.shape} as that of this front-end"
            )
    return {name: np.array(state[name]) for name in like}


def pack_signal(signal: Any) -> NDArray[Any]:
    """A signal as a tensor of a golden file: text as bytes of UTF-8, sound as samples (N,)."""
    if isinstance(signal, str):
        return np.frombuffer(signal.encode(), np.uint8)
    return np.asarray(signal.samples, np.float32)


def unpack_signal(spec: FrontEndSpec, packed: NDArray[Any]) -> Any:
    """The signal that `pack_signal` packed; ValueError where it cannot be one."""
    if packed.dtype == np.uint8:
        return packed.tobytes().decode()
    from .sound import Sound

    return Sound(packed, int(spec.settings["rate"]))
