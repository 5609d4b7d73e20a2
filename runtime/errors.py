"""One tree of errors that the user can mend; anything outside it is a fault of ours.

IfmminError
├── InputError           features, files or options given by the caller
├── BundleError          a bundle that is not there, damaged, or too new
├── CheckpointError      a file that is not a checkpoint of ours, or does not fit
├── RecipeError          a recipe or a --set that contradicts itself
├── CorpusError          a corpus that does not hold what its layout promises
├── ParityError          a graph that does not say what its network says
├── BackendUnavailable   a backend that cannot run here
├── EngineError          an engine that cannot be built or loaded
└── OutputError          a place that cannot be written

A message says what was got, what was wanted, and what to do. The commands print it as one line
and exit with code 2; see `ifmmin.runtime.console`.
"""

from __future__ import annotations

import re

_LONGEST, _TAIL = 300, 100
"""Characters of an engine's complaint that are shown, and how many of them are its last: what is
left out is for its makers."""
_SEARCHED = 10_000
"""Characters in which places are looked for."""
_PLACE = re.compile(
    r"(?<!\S)\S*/\S+\.(?:cc|cpp|cu|h|hpp):\d+ (?:[^()]{1,200}\([^()]*\)(?: const)?)? ?"
)
"""File, line and signature by which ONNX Runtime says where it complains."""


class IfmminError(Exception):
    """Base of every error that the user can mend."""


class InputError(IfmminError):
    """Features, files or options given by the caller are not usable."""


class BundleError(IfmminError):
    """A bundle is absent, damaged, incomplete or written by a newer version."""


class CheckpointError(IfmminError):
    """A file is not a checkpoint of ours or does not fit what is asked of it."""


class RecipeError(IfmminError):
    """A recipe, or an override of one of its fields, is not valid."""


class CorpusError(IfmminError):
    """A corpus does not hold what its layout promises."""


class ParityError(IfmminError):
    """An exported graph does not give the answers of its network.

    The commands print its table above the line.
    """

    def __init__(self, message: str, table: str = "") -> None:
        super().__init__(message)
        self.table = table
        """What differs by how much; may be empty."""


class BackendUnavailable(IfmminError):  # noqa: N818 - the name that callers branch on
    """A backend cannot run on this device; the message has the reason and the cure."""


class EngineError(IfmminError):
    """An engine cannot be built or loaded; the message has what TensorRT says."""


class OutputError(IfmminError):
    """A file or directory cannot be written."""


def one_line(error: Exception) -> str:
    """What an engine complains of, short and in one line."""
    said = str(error)
    if len(said) > _SEARCHED:
        said = f"{said[:_LONGEST]} ... {said[-_LONGEST:]}"
    text = _PLACE.sub("", " ".join(said.split())) or type(error).__name__
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - _TAIL]} ... {text[-_TAIL:]}"
