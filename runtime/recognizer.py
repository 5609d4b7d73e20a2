"""Recognizer: from sound, words and faces to emotion, with the front-ends of a bundle.

A front-end makes features of a signal, and a predictor answers them.
"""

from __future__ import annotations

import copy
import hashlib
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from .errors import BundleError, InputError
from .files import JSON_ERRORS
from .frontends.base import Features, FrontEnd, open_frontend
from .frontends.sound import Sound, as_sound, cut
from .frontends.spec import reader_of
from .modality import Modality, Pattern
from .prediction import Prediction
from .predictor import Predictor
from .process import Lazy, abandon, register

if TYPE_CHECKING:
    from .stream.options import StreamOptions

SOUND, FACE, WORDS = Modality.A, Modality.V, Modality.T
_NOTHING = {
    SOUND: "no speech was found in it",
    FACE: "no face was found in it",
    WORDS: "no words are in it",
}
"""Why a signal that was given has no features."""


_SIGNAL = {SOUND: "sound", FACE: "face", WORDS: "text"}


class _NothingFound(InputError):  # noqa: N818 - an outcome
    """Signals in which there is nothing to answer from."""

    def __init__(self, nothing: Mapping[Modality, str]) -> None:
        told = "; ".join(f"{_SIGNAL[m]}: {reason}" for m, reason in nothing.items())
        super().__init__(f"nothing to answer from: {told}")


@dataclass(frozen=True)
class SpokenUtterance:
    """One utterance of a recording, and its answer."""

    start: float
    """In seconds of the recording."""
    end: float
    """In seconds of the recording."""
    prediction: Prediction
    """Its answer."""


class Recognizer:
    """Recognises emotion in recordings, sentences and faces.

    bundle: directory of a bundle, or a predictor; None: the bundle that comes with the package.
    frontends: per modality, `a`, `v` or `t`, a front-end to use in place of the bundle's own, which
    must be the same by its identity where the bundle names one. transcribe: gives the words of a
    sound that comes without, such as `frontends.moonshine.transcribe`.
    predictor_options: those of `Predictor`, such as `threads`.

    May be used from many threads, and in children that are forked. A pickle or a copy of it is its
    arguments. Raises BundleError, BackendUnavailable or InputError.
    """

    def __init__(
        self,
        bundle: str | Path | Predictor | None = None,
        *,
        frontends: Mapping[str, FrontEnd] | None = None,
        transcribe: Callable[[Sound], str] | None = None,
        **predictor_options: Any,
    ) -> None:
        if isinstance(bundle, Predictor) and predictor_options:
            raise InputError("got a predictor and options for one; give the options to it")
        self.predictor = (
            bundle if isinstance(bundle, Predictor) else Predictor(bundle, **predictor_options)
        )
        """What answers features."""
        self._new = partial(
            type(self), bundle, frontends=frontends, transcribe=transcribe, **predictor_options
        )
        """Makes another like this one."""
        if transcribe is not None and not callable(transcribe):
            raise InputError(
                f"transcribe: got {type(transcribe).__name__}, wanted a function of sound"
            )
        self._transcribe = transcribe
        self._specs = self.predictor.bundle.manifest.modalities
        self._given = {Modality.of(m): f for m, f in (frontends or {}).items()}
        for modality, frontend in self._given.items():
            self._require_same(modality, frontend)
        register(self, Recognizer._begin_anew)

    def _begin_anew(self) -> None:
        """Open front-ends anew when they are wanted; called in a child by the fork itself."""
        abandon(self.__dict__.copy())
        self.__dict__.pop("_opened", None)

    def __reduce__(self) -> tuple[Callable[[], Recognizer], tuple[()]]:
        return self._new, ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of probabilities and logits."""
        return self.predictor.labels

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns of which whole utterances can be answered."""
        return self.predictor.patterns

    def recognize(
        self,
        *,
        sound: Sound | str | Path | tuple[Any, int] | None = None,
        text: str | None = None,
        face: Any = None,
        pattern: Pattern | str | None = None,
    ) -> Prediction:
        """The emotion of one utterance.

        sound: path of a recording, or samples (N,) or (N, channels) with their rate in Hz. text:
        what is said in it. face: path of an OpenFace CSV, a picture or a video, or what else the
        bundle's front-end takes. pattern: use these only. A signal in which nothing is found, such
        as silence, counts as missing. `seconds` of the answer are those of front-ends and network.

        Raises InputError for what is no such signal, and where nothing is found in any.
        """
        given = {SOUND: sound, FACE: face, WORDS: text}
        frontends = {m: self.frontend(m) for m, signal in given.items() if signal is not None}
        transcribe = self._transcribe if text is None and sound is not None else None
        if transcribe is not None:
            frontends[WORDS] = self.frontend(WORDS)
        started = time.perf_counter()
        if transcribe is not None:
            given[SOUND] = as_sound(sound)
            given[WORDS] = transcribe(given[SOUND])
        features, nothing = {}, {}
        for modality, frontend in frontends.items():
            found = frontend.whole(given[modality])
            if len(found):
                features[modality] = found
            else:
                nothing[modality] = _NOTHING[modality]
        return self._answer(features, nothing, pattern, time.perf_counter() - started)

    def utterances(
        self,
        sound: Sound | str | Path | tuple[Any, int],
        *,
        text: str | None = None,
        pattern: Pattern | str | None = None,
    ) -> Iterator[SpokenUtterance]:
        """Every utterance of a recording of any length, as it is found, with its answer.

        A recording of 12 seconds or less is one utterance; a longer one is cut where nobody speaks.
        Of a path a few seconds are in memory at a time. text: what is said in all of it. Raises
        InputError as `recognize` does, and where there was no utterance.
        """
        frontend = self.frontend(SOUND)
        find_utterances = getattr(frontend, "utterances", None)
        if find_utterances is None:
            raise BundleError(
                f"the front-end {frontend.describe().kind} does not cut recordings; give it one "
                "utterance at a time"
            )
        words = None if text is None else self.frontend(WORDS).whole(text)
        found = False
        started = time.perf_counter()
        for start, end, features in find_utterances(sound):
            if text is None and self._transcribe is not None:
                said = self._transcribe(cut(sound, start, end))
                words = self.frontend(WORDS).whole(said)
            given = {SOUND: features} if words is None else {SOUND: features, WORDS: words}
            answer = self._answer(given, {}, pattern, time.perf_counter() - started)
            found = True
            yield SpokenUtterance(start, end, answer)
            started = time.perf_counter()
        if not found:
            raise _NothingFound({SOUND: _NOTHING[SOUND]})

    def stream(self, options: StreamOptions | None = None) -> RecognizerStream:
        """Sound, words and faces as they come; asked at any moment. options: of the features."""
        return RecognizerStream(self, options)

    def frontend(self, modality: Modality) -> FrontEnd:
        """What makes the features of a modality, opened at its first use.

        Raises BundleError where the bundle has none.
        """
        found = self._opened.get(modality)
        if found is None:
            found = self._opened[modality] = self._open(modality)
        return found

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those whose signals can be taken."""
        return tuple(m for m, s in self._specs.items() if s.frontend or m in self._given)

    @Lazy
    def _opened(self) -> dict[Modality, FrontEnd]:
        return dict(self._given)

    def _open(self, modality: Modality) -> FrontEnd:
        spec = self._specs.get(modality)
        directory = self.predictor.bundle.directory
        if spec is None:
            raise BundleError(f"{directory} takes no {_SIGNAL[modality]}: it has no {modality}")
        if spec.frontend is None:
            raise BundleError(
                f"{directory} takes no {_SIGNAL[modality]}, only features of {spec.dim} numbers a "
                f"frame ({spec.features}): it has no front-end for {modality}"
            )
        threads = self.predictor.threads
        threads = threads if isinstance(threads, int) else 1
        return open_frontend(spec.frontend, reader_of(directory), threads)

    def _require_same(self, modality: Modality, frontend: FrontEnd) -> None:
        if not hasattr(frontend, "describe"):
            raise InputError(
                f"modality {modality}: got {type(frontend).__name__}, wanted a front-end"
            )
        spec, given = self._specs.get(modality), frontend.describe()
        if spec is None:
            raise InputError(f"got a front-end for {modality}, which the bundle does not have")
        if spec.frontend is not None and spec.frontend.identity != given.identity:
            raise InputError(
                f"modality {modality}: got the front-end {given.identity}, the bundle was made for "
                f"{spec.frontend.identity}; use that one, or train with yours"
            )
        if given.dim != spec.dim:
            raise InputError(
                f"modality {modality}: the front-end {given.kind} makes {given.dim} features a "
                f"frame, the bundle takes {spec.dim} ({spec.features})"
            )

    def _answer(
        self,
        features: Mapping[Modality, Features],
        nothing: Mapping[Modality, str],
        pattern: Pattern | str | None,
        seconds: float,
    ) -> Prediction:
        utterance = {modality.value: array for modality, array in features.items()}
        try:
            answer = self.predictor.predict(utterance, pattern=pattern)
        except InputError:
            if features or not nothing:
                raise
            raise _NothingFound(nothing) from None
        absent = {m: nothing.get(m, reason) for m, reason in answer.absent.items()}
        return answer._replace(absent=absent, seconds=seconds + answer.seconds)


class RecognizerStream:
    """Sound, words and faces as they come; `Recognizer.stream()` gives one.

    Front-ends hear every piece at once, `predict` answers at any moment from what was found in
    them. Not for use from two threads at once.
    """

    def __init__(self, recognizer: Recognizer, options: StreamOptions | None = None) -> None:
        self._recognizer = recognizer
        self.features = recognizer.predictor.stream(options)
        """The stream beneath, of the features that were found; its answers are the same."""
        self._frontends: dict[Modality, FrontEnd] = {}
        self._heard = 0.0
        """Seconds of sound."""
        self._now: float | None = None

    def push_sound(self, samples: Any, rate: int = 16000, *, at: float | None = None) -> None:
        """The next samples, (N,) or (N, channels), at `rate` Hz. at: time of the newest in seconds;
        default: how much sound there was. Raises InputError, and then has heard nothing of it."""
        piece = as_sound((samples, rate))
        heard = self._heard + piece.seconds
        self._push(SOUND, piece, heard if at is None else at)
        self._heard = heard

    def push_face(self, face: Any, *, at: float | None = None) -> None:
        """The next picture, or what else the front-end for faces takes. at: its time in seconds;
        default: that of the sound so far."""
        self._push(FACE, face, self._now if at is None else at)

    def set_text(self, text: str | None, *, at: float | None = None) -> None:
        """What is said, in place of the text so far; None and an empty one clear it."""
        found = None if text is None else self._recognizer.frontend(WORDS).whole(text)
        self.features.set_text(found, at=self._now if at is None else at)

    def clear(self, modality: str) -> None:
        """Forget what a modality said: it is missing until more of it comes."""
        self.features.clear(modality)

    def predict(self, *, at: float | None = None) -> Prediction:
        """The answer now. at: the time in seconds; default: that of the last piece.

        Raises InputError where nothing was found so far, unless the predictor answers then.
        """
        return self.features.predict(at=self._now if at is None else at)

    @property
    def pattern(self) -> Pattern | None:
        """What counts now; None where nothing does."""
        return self.features.pattern

    @property
    def frames(self) -> dict[Modality, int]:
        """Frames per modality that an answer is of now."""
        return self.features.frames

    def reset(self) -> None:
        """Forget everything, as if the stream had just begun."""
        self.features.reset()
        self._frontends, self._heard, self._now = {}, 0.0, None

    def snapshot(self) -> bytes:
        """All that has to be kept to go on later, or elsewhere. It holds no sound and no text, but
        states of a network that hears who speaks."""
        states = {
            m.value: _FrontEndState(f.describe().identity, {k: _pack(x) for k, x in s.items()})
            for m, f in self._frontends.items()
            for s in (f.state(),)
        }
        body = msgspec.msgpack.encode(
            _Snapshot(self.features.snapshot(), self._heard, self._now, states)
        )
        return _FIRST_LINE + hashlib.sha256(body).digest() + body

    def resume(self, content: bytes) -> None:
        """Go on from a snapshot. InputError where it is damaged or of other front-ends or streams;
        then nothing has changed."""
        record = _unpack(content)
        opened = {}
        for letter, kept in record.frontends.items():
            modality = Modality.of(letter)
            frontend = copy.copy(self._recognizer.frontend(modality))
            found = frontend.describe().identity
            if found != kept.identity:
                raise InputError(
                    f"the snapshot is of the front-end {kept.identity} of {modality}, this one is "
                    f"{found}; begin anew"
                )
            frontend.reset({name: _array(kept_array) for name, kept_array in kept.state.items()})
            opened[modality] = frontend
        self.features.resume(record.stream)
        self._frontends, self._heard, self._now = opened, record.heard, record.now

    def __enter__(self) -> RecognizerStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.reset()

    def _push(self, modality: Modality, piece: Any, at: float | None) -> None:
        if at is not None:
            at = self.features.state.resolve_time(at)
        if at is not None and self._now is not None and at < self._now:
            raise InputError(f"at: got {at:g} seconds, wanted {self._now:g} or later")
        found = self._frontend(modality).stream(piece)
        if len(found):
            self.features.push({modality: found}, at=at)
        self._now = at

    def _frontend(self, modality: Modality) -> FrontEnd:
        """That of this stream: the recognizer's graphs with a state of its own."""
        found = self._frontends.get(modality)
        if found is None:
            found = copy.copy(self._recognizer.frontend(modality))
            found.reset()
            self._frontends[modality] = found
        return found


class _Array(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    content: bytes


class _FrontEndState(msgspec.Struct):
    identity: str
    state: dict[str, _Array]


class _Snapshot(msgspec.Struct):
    stream: bytes
    heard: float
    now: float | None
    frontends: dict[str, _FrontEndState]


_FIRST_LINE = b"ifmmin recognizer 1\n"
_DIGEST = hashlib.sha256().digest_size


_DTYPE = re.compile("[<>|][biuf][1-8]")
"""Of arrays in a snapshot: numpy would evaluate whatever stands there."""


def _pack(array: Any) -> _Array:
    return _Array(array.dtype.str, array.shape, array.tobytes())


def _array(kept: _Array) -> Any:
    try:
        if not _DTYPE.fullmatch(kept.dtype):
            raise ValueError("an array of no numbers")
        return np.frombuffer(kept.content, np.dtype(kept.dtype)).reshape(kept.shape).copy()
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the snapshot is damaged ({error}); it cannot be resumed") from error


def _unpack(content: object) -> _Snapshot:
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise InputError("snapshot: wanted bytes of `snapshot()`")
    content = bytes(content)
    if not content.startswith(_FIRST_LINE):
        raise InputError(
            "these bytes are no snapshot of a recognizer's stream; give those of `snapshot()`"
        )
    begins = len(_FIRST_LINE) + _DIGEST
    body = content[begins:]
    if hashlib.sha256(body).digest() != content[len(_FIRST_LINE) : begins]:
        raise InputError("the snapshot is damaged; it cannot be resumed")
    try:
        record = msgspec.msgpack.decode(body, type=_Snapshot)
    except JSON_ERRORS as error:
        raise InputError(f"the snapshot is damaged ({error}); it cannot be resumed") from error
    if not (0 <= record.heard < math.inf and math.isfinite(record.now or 0)):
        raise InputError("the snapshot is damaged (its times); it cannot be resumed")
    return record
