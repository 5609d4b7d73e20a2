"""Stands in for a module of TensorRT: passes everything on, and writes down every name used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_DOCUMENT = json.loads((Path(__file__).parent / "tensorrt_names.json").read_text())
COMMON: dict[str, list[str]] = _DOCUMENT["common"]
RTX_ONLY: dict[str, list[str]] = _DOCUMENT["rtx_only"]


class RecordingModule:
    """Like `module`; `used` has (class, attribute) of all that was touched, `calls` the methods
    called with their arguments."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.used: set[tuple[str, str]] = set()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        # What is derived from it has to be the same in front of the module and behind.
        return _Class(self, value) if isinstance(value, type) and name != "ILogger" else value

    @property
    def outside(self) -> set[tuple[str, str]]:
        """What was used and is not in every version of native TensorRT."""
        return {(kind, name) for kind, name in self.used if name not in COMMON.get(kind, ())}

    def wrap(self, value: Any) -> Any:
        """An object of the module that records, anything else as it is."""
        kind = type(value)
        ours = kind.__module__.startswith("tensorrt") and not hasattr(kind, "__members__")
        return _Object(self, value) if ours and kind.__name__ != "Dims" else value


class _Class:
    def __init__(self, recorder: RecordingModule, kind: type) -> None:
        self._recorder, self._kind = recorder, kind

    def __mro_entries__(self, _bases: tuple[Any, ...]) -> tuple[type]:
        return (self._kind,)

    def __call__(self, *arguments: Any) -> Any:
        return self._recorder.wrap(self._kind(*map(_plain, arguments)))

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            self._recorder.used.add((self._kind.__name__, name))
        return getattr(self._kind, name)


class _Object:
    _recorder: RecordingModule
    _value: Any

    def __init__(self, recorder: RecordingModule, value: Any) -> None:
        object.__setattr__(self, "_recorder", recorder)
        object.__setattr__(self, "_value", value)

    def _note(self, name: str) -> None:
        kinds = type(self._value).__mro__
        owner = next((kind for kind in kinds if name in vars(kind)), kinds[0])
        self._recorder.used.add((owner.__name__, name))

    def __getattr__(self, name: str) -> Any:
        self._note(name)
        value = getattr(self._value, name)
        return self._method(name, value) if callable(value) else self._recorder.wrap(value)

    def _method(self, name: str, method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            self._recorder.calls.append((name, arguments))
            return self._recorder.wrap(method(*map(_plain, arguments)))

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        self._note(name)
        setattr(self._value, name, _plain(value))

    def __bytes__(self) -> bytes:
        return bytes(self._value)


def _plain(value: Any) -> Any:
    return object.__getattribute__(value, "_value") if isinstance(value, _Object) else value
