"""Words: states of an encoder such as BERT, one per piece of a text (kinds `minilm` and `bert`).

Devlin et al., NAACL 2019; Wang et al., NeurIPS 2020. A frame is the state of a piece, with those of
[CLS] before and [SEP] after the text, as in the released features. An encoder looks both ways, so
that a stream has its frames when the text is over. ifmmin-bundle frontend makes the files.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from ..errors import BundleError, InputError
from .base import Features, State, require_state, session
from .spec import FrontEndSpec, Read
from .wordpiece import BEGIN, END, UNKNOWN, WordPiece


class Words:
    """An encoder in ONNX Runtime behind its vocabulary. Text beyond the `longest` pieces that the
    encoder takes is left out, and a warning says so once."""

    def __init__(self, spec: FrontEndSpec, read: Read, threads: int = 1) -> None:
        self._spec = spec
        longest, lower_case = spec.settings.get("longest"), spec.settings.get("lower_case")
        if not isinstance(longest, int) or longest < 3 or not isinstance(lower_case, bool):
            raise BundleError(f"front-end {spec.kind}: its settings lack longest or lower_case")
        if missing := {"graph", "vocabulary"} - spec.files.keys():
            raise BundleError(f"front-end {spec.kind}: it has no file {' or '.join(missing)}")
        self._longest = longest
        self._wordpiece = WordPiece(_pieces(spec, read), lower_case=lower_case)
        self._session = session(read(spec.files["graph"]), threads)
        self._text = ""
        self._told = False

    def describe(self) -> FrontEndSpec:
        """Its specification."""
        return self._spec

    def whole(self, signal: str) -> Features:
        """States (T, D) of [CLS], the pieces of a text and [SEP]; (0, D) for a text of no words.

        Raises InputError for what is no text, or text read with a wrong encoding.
        """
        numbers, cut = self._wordpiece.encode(_require_text(signal), self._longest)
        if cut and not self._told:
            self._told = True
            logging.getLogger("ifmmin.words").warning(
                "a text has more than the %d pieces of words that %s takes; only its beginning "
                "counts, so give longer ones in parts", self._longest, self._spec.kind,
            )  # fmt: skip
        if len(numbers) <= len((BEGIN, END)):
            return np.empty((0, self._spec.dim), np.float32)
        states: Features = self._session.run(None, {"ids": np.array(numbers, np.int64)})[0]
        return states

    def stream(self, signal: str, *, last: bool = False) -> Features:
        """(0, D) until the last piece of text has come, then the states of the whole text."""
        self._text += _require_text(signal)
        if not last:
            return np.empty((0, self._spec.dim), np.float32)
        states = self.whole(self._text)
        self._text = ""
        return states

    def reset(self, state: State | None = None) -> None:
        """Forget the text of the stream, or take up that of `state`."""
        if state is None:
            self._text = ""
            return
        text = require_state(state, {"text": np.empty(0, np.uint8)})["text"].tobytes()
        try:
            self._text = text.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"state of a front-end: text is not UTF-8 ({error})") from error

    def state(self) -> State:
        """The text of the stream, in UTF-8."""
        return {"text": np.frombuffer(self._text.encode(), np.uint8).copy()}


def open(spec: FrontEndSpec, read: Read, threads: int = 1) -> Words:
    """The front-end of a specification; BundleError where its files are not those of one."""
    return Words(spec, read, threads)


def _pieces(spec: FrontEndSpec, read: Read) -> dict[str, int]:
    """Number of each piece: its line in the vocabulary."""
    entry = spec.files["vocabulary"]
    try:
        lines = read(entry).decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise BundleError(f"{entry.file} is not UTF-8 ({error})") from error
    pieces = {piece: number for number, piece in enumerate(lines)}
    if not {BEGIN, END, UNKNOWN} <= pieces.keys():
        raise BundleError(f"{entry.file} is no vocabulary with {BEGIN}, {END} and {UNKNOWN}")
    return pieces


def _require_text(text: Any) -> str:
    """`text`; InputError where it is none, or was read with another encoding than its own."""
    if not isinstance(text, str):
        raise InputError(f"words: got {type(text).__name__}, wanted text (str)")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"words: character {error.start + 1} of the text is none; it was read with another "
            "encoding than it was written with: wanted UTF-8"
        ) from error
    return text
