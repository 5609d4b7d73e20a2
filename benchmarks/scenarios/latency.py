"""Latency of one utterance and throughput of many, beside peers and the A/A control.

Also of the way from a signal, a wav of four seconds or a sentence, to its answer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec

from ifmmin.export.frontends.voice import voice
from ifmmin.runtime.errors import IfmminError
from ifmmin.runtime.frontends import opensmile
from ifmmin.runtime.frontends.base import FrontEnd, open_frontend
from ifmmin.runtime.frontends.sound import Sound, parts, read_sound
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.recognizer import Recognizer

from ..record import CONTROL, OURS, REFERENCE, Row
from ..roofline.count import input_owners
from ..roofline.profile import split_time
from ..timing import FEWEST
from .bench import Bench
from .contenders import Contender, Features, RunConfig
from .plan import ACOUSTIC_LENGTHS, MONOLITH, ORDINARY, ordinary_lengths

_WARM_UP = 3
"""Calls at another length, of contenders that are warm but for that."""


def latency(bench: Bench) -> list[Row]:
    """Ordinary lengths, with the bound and how the time splits."""
    rows = []
    for threads in bench.plan.threads:
        bench.make_ready(threads)
    bench.pace.expect(len(bench.plan.threads) * len(bench.patterns))
    for threads in bench.plan.threads:
        for pattern in bench.patterns:
            bench.log(f"latency of {pattern}, {threads} threads")
            found = _measure(bench, "latency", pattern, threads, ORDINARY)
            rows += [_with_split(bench, row, pattern) for row in found]
    return rows


def length(bench: Bench) -> list[Row]:
    """The acoustic stream of several lengths, on one thread."""
    rows, threads = [], bench.plan.threads[0]
    heard = [pattern for pattern in bench.patterns if Modality.A in pattern]
    bench.make_ready(threads)
    bench.pace.expect(len(heard) * len(ACOUSTIC_LENGTHS))
    for pattern in heard:
        for frames in ACOUSTIC_LENGTHS:
            bench.log(f"latency of {pattern}, {frames} acoustic frames")
            lengths = {**ORDINARY, Modality.A: frames}
            rows += _measure(bench, "length", pattern, threads, lengths, warm_up=_WARM_UP)
    return rows


def _measure(
    bench: Bench,
    scenario: str,
    pattern: Pattern,
    threads: int,
    lengths: Mapping[Modality, int],
    warm_up: int | None = None,
) -> list[Row]:
    contenders = bench.marked(pattern, threads)
    features = bench.features({m: lengths[m] for m in pattern})
    calls = {i: one.in_turns(features, lengths) for i, one in enumerate(contenders)}
    timings = bench.time(calls, warm_up=warm_up)
    rows = []
    for i, contender in enumerate(contenders):
        bound = bench.bounds.of(contender, pattern, lengths)
        notes = [contender.note, *(bound.notes if bound else ())]
        rows.append(
            bench.row(
                scenario,
                contender,
                pattern,
                lengths={m.value: lengths[m] for m in pattern},
                samples=tuple(timings[i]),
                bound=bound.seconds if bound else None,
                note="; ".join(note for note in notes if note),
            )
        )
    return rows


def _with_split(bench: Bench, row: Row, pattern: Pattern) -> Row:
    """The row with how the time divides, where ONNX Runtime's CPU can tell."""
    if row.contender != OURS or row.backend != "onnxruntime-cpu" or row.bound is None:
        return row
    entry = bench.bundle.entry(pattern, row.precision)
    feed = {m.value: x for m, x in bench.ordinary(pattern).items()}
    try:
        shares = split_time(
            bench.bundle.graph(entry), feed, input_owners(entry), threads=row.threads
        )
    except IfmminError:
        return row
    return msgspec.structs.replace(row, split=shares)


_ROUNDS = 20
_IN_A_ROW = 8
"""Utterances of a sample of the monolith's and of the reference workload's: they are asked one by
one, so that a larger batch is the same again, and takes long."""


def throughput(bench: Bench) -> list[Row]:
    """`predict_batch` of one pattern on one thread, against the monolith asked one by one. Patterns
    without graphs for batches are left out, and noted."""
    rows, threads = [], bench.plan.threads[0]
    patterns = [pattern for pattern in bench.patterns if bench.bundle.has("throughput", pattern)]
    if lacking := [str(pattern) for pattern in bench.patterns if pattern not in patterns]:
        bench.refuse(
            "throughput",
            threads,
            f"the bundle has no throughput graphs of {', '.join(lacking)}, so that batches are "
            "answered one by one; ifmmin-export CHECKPOINT --shape throughput adds them",
        )
    bench.pace.expect(len(patterns) * len(bench.plan.batches))
    for pattern in patterns:
        for batch in bench.plan.batches:
            bench.log(f"throughput of {pattern}, batches of {batch}")
            rows += _measure_batches(bench, pattern, threads, batch)
    return rows


def _measure_batches(bench: Bench, pattern: Pattern, threads: int, batch: int) -> list[Row]:
    contenders = [
        one
        for one in bench.contenders(pattern, threads)
        if one.name == MONOLITH
        or (
            one.name in (OURS, CONTROL)
            and bench.bundle.find("throughput", pattern, one.config.precision)
        )
    ]
    if any(contender.name == OURS for contender in contenders):
        contenders += bench.reference(pattern, threads)
    utterances = [bench.ordinary(pattern, i) for i in range(batch)]
    calls = [_call(bench, contender, utterances) for contender in contenders]
    timings = bench.time(
        {i: call for i, (call, _) in enumerate(calls)},
        rounds=_ROUNDS,
        warm_up=2,
        fewest=FEWEST,
        settled=False,  # a batch outlasts what its first utterance finds in the caches
    )
    rows = []
    for i, contender in enumerate(contenders):
        bound = bench.bounds.of(contender, pattern, ORDINARY, batch)
        rows.append(
            bench.row(
                "throughput",
                contender,
                pattern,
                batch=batch,
                unit="1/s",
                lengths=ordinary_lengths(pattern),
                samples=tuple(calls[i][1] / timings[i]),
                bound=batch / bound.seconds if bound else None,
            )
        )
    return rows


def _call(
    bench: Bench, contender: Contender, utterances: list[Features]
) -> tuple[Callable[[], Any], int]:
    """What is timed, and how many utterances it answers."""
    if contender.name in (MONOLITH, REFERENCE):
        calls = [contender.prepared(features, ORDINARY) for features in utterances[:_IN_A_ROW]]
        return lambda: [call() for call in calls], len(calls)
    predictor = bench.predictor(contender.config, contender.name)
    assert predictor is not None
    together = partial(predictor.predict_batch, utterances, batch_size=len(utterances))
    return together, len(utterances)


SIGNAL_SECONDS = 4.0
SENTENCE = "I never thought that we would see each other again, and here you are at my door."
PEER = "opensmile"
_SOUND, _WORDS = Pattern.of("a"), Pattern.of("t")
_PIECES = 100
"""Of 10 ms, pushed in one sample: few of them complete a frame, and the mean is what counts."""


class _SignalPart(NamedTuple):
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
        found = list(_signal_parts(bench, recognizer, ours[0].config, patterns, path))
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

    path, sound = folder / "voice.wav", voice(SIGNAL_SECONDS)
    soundfile.write(path, sound.samples, sound.rate)
    return path


def _signal_parts(
    bench: Bench, recognizer: Recognizer, config: RunConfig, patterns: list[Pattern], path: Path
) -> Iterator[_SignalPart]:
    def own(pattern: Pattern, name: str, call: Callable[[], Any], times: int = 1) -> _SignalPart:
        return _SignalPart(pattern, name, Contender(OURS, call, config), times)

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


def _pushing(frontend: FrontEnd, sound: Sound) -> Callable[[], Any]:
    """Pushes a second of a stream that never ends."""
    stream = copy.copy(frontend)
    stream.reset()
    pieces = cycle(list(parts(sound, seconds=1 / _PIECES)))
    return lambda: [stream.stream(next(pieces)) for _ in range(_PIECES)]


def _peer(bench: Bench, threads: int, sound: Sound) -> Iterator[_SignalPart]:
    """openSMILE's ComParE features of the same sound."""
    try:
        peer = open_frontend(opensmile.specify(), lambda entry: b"", threads)
    except IfmminError as error:
        bench.refuse(PEER, threads, error)
        return
    call = Contender(PEER, lambda: peer.whole(sound), RunConfig(PEER, "", threads), peer=True)
    yield _SignalPart(_SOUND, "features", call)
