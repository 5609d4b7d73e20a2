"""Signal to answer: a wav of four seconds and a sentence, by part and as a whole."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ifmmin.export.frontends.voice import voice
from ifmmin.runtime.errors import IfmminError
from ifmmin.runtime.frontends import opensmile
from ifmmin.runtime.frontends.base import FrontEnd, open_frontend
from ifmmin.runtime.frontends.sound import Sound, parts, read_sound
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.recognizer import Recognizer

from ..record import OURS, Row
from .bench import Bench
from .contenders import Contender, RunConfig

SECONDS = 4.0
SENTENCE = "I never thought that we would see each other again, and here you are at my door."
PEER = "opensmile"
_SOUND, _WORDS = Pattern.of("a"), Pattern.of("t")
_PIECES = 100
"""Of 10 ms, pushed in one sample: few of them complete a frame, and the mean is what counts."""
Call = Callable[[], Any]


class _Part(NamedTuple):
    """What is timed."""

    pattern: Pattern
    name: str
    contender: Contender
    times: int = 1


def signal(bench: Bench) -> list[Row]:
    """Every part, and all, of each pattern whose signals the bundle takes, on one thread."""
    threads = bench.plan.threads[0]
    ours = [one for one in bench.ours(bench.patterns[0], threads) if one.name == OURS]
    predictor = bench.predictor(ours[0].config) if ours else None
    if predictor is None:
        return []
    recognizer = Recognizer(predictor)
    taken = {Modality.A, Modality.T}.intersection(recognizer.modalities)
    patterns = [pattern for pattern in bench.patterns if taken.issuperset(pattern)]
    if not patterns:
        bench.refuse("all", threads, "the bundle has no front-end for sound or words")
        return []
    with TemporaryDirectory() as folder:
        path = _write_wav(Path(folder))
        found = list(_parts(bench, recognizer, ours[0].config, patterns, path))
        bench.log(f"from a recording to its emotion, {threads} threads")
        timings = bench.time({i: part.contender.call for i, part in enumerate(found)})
    return [
        bench.row(
            "signal", part.contender, part.pattern, part=part.name,
            samples=tuple(timings[i] / part.times),
        )
        for i, part in enumerate(found)
    ]  # fmt: skip


def _write_wav(folder: Path) -> Path:
    import soundfile

    path, sound = folder / "voice.wav", voice(SECONDS)
    soundfile.write(path, sound.samples, sound.rate)
    return path


def _parts(
    bench: Bench, recognizer: Recognizer, config: RunConfig, patterns: list[Pattern], path: Path
) -> Iterator[_Part]:
    def own(pattern: Pattern, name: str, call: Call, times: int = 1) -> _Part:
        return _Part(pattern, name, Contender(OURS, call, config), times)

    signals: dict[Modality, dict[str, Any]] = {}
    features = {}
    if any(Modality.A in pattern for pattern in patterns):
        sound, hears = read_sound(path), recognizer.frontend(Modality.A)
        signals[Modality.A], features[Modality.A] = {"sound": path}, hears.whole(sound)
        yield own(_SOUND, "read", lambda: read_sound(path))
        if speech := getattr(hears, "speech", None):
            yield own(_SOUND, "detect", lambda: speech(sound))
        yield own(_SOUND, "features", lambda: hears.whole(sound))
        yield own(_SOUND, "10 ms of a stream", _pushing(hears, sound), _PIECES)
        yield from _peer(bench, config.threads, sound)
    if any(Modality.T in pattern for pattern in patterns):
        reads = recognizer.frontend(Modality.T)
        signals[Modality.T], features[Modality.T] = {"text": SENTENCE}, reads.whole(SENTENCE)
        yield own(_WORDS, "features", lambda: reads.whole(SENTENCE))
    for pattern in patterns:
        given = {m: features[m] for m in pattern}
        named = {name: value for m in pattern for name, value in signals[m].items()}
        yield own(pattern, "network", partial(recognizer.predictor.predict, given))
        yield own(pattern, "all", partial(recognizer.recognize, **named))


def _pushing(frontend: FrontEnd, sound: Sound) -> Call:
    """Pushes a second of a stream that never ends."""
    stream = copy.copy(frontend)
    stream.reset()
    pieces = cycle(list(parts(sound, seconds=1 / _PIECES)))
    return lambda: [stream.stream(next(pieces)) for _ in range(_PIECES)]


def _peer(bench: Bench, threads: int, sound: Sound) -> Iterator[_Part]:
    """openSMILE's ComParE features of the same sound."""
    try:
        peer = open_frontend(opensmile.specify(), lambda entry: b"", threads)
    except IfmminError as error:
        bench.refuse(PEER, threads, error)
        return
    call = Contender(PEER, lambda: peer.whole(sound), RunConfig(PEER, "", threads), peer=True)
    yield _Part(_SOUND, "features", call)
