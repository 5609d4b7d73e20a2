"""Command `ifmmin-run`: the emotion of recordings, sentences and features, without torch."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ..backends import BACKENDS, BackendOptions
from ..console import log_line, markdown_table, print_table, write
from ..errors import IfmminError, InputError
from ..frontends.sound import duration
from ..frontends.speech import LONGEST
from ..modality import Modality, Pattern
from ..prediction import Prediction
from ..predictor import Predictor
from ..recognizer import Recognizer
from ..sessions import Trial
from ..validate import Policy, validate
from .app import BundleOption, command, entry_point, new_app, require_bundle
from .options import (
    Executor,
    Late,
    Layout,
    NanFrames,
    OnEmpty,
    Replay,
    SessionOptions,
    answers,
    execution,
    numbers_by_modality,
    parse_threads,
    signals,
    streams,
)  # fmt: skip
from .readers import LazySample, Reader, Sample, find_inputs
from .recordings import Tell, shown_progress
from .writers import LAYOUT_OF, Answer, Write, Writer, make_writer, saved_lines

if TYPE_CHECKING:
    from ..frontends.sound import Sound


def print_explanation(predictor: Predictor) -> None:
    """One row per pattern and candidate; then why some cannot run, each reason once."""
    tuner = predictor.explain()
    rows = [
        [
            str(trial.pattern),
            trial.candidate.backend,
            trial.candidate.precision,
            str(trial.candidate.threads or ""),
            trial.outcome,
            "" if trial.seconds is None else f"{trial.seconds * 1e6:.0f}",
        ]
        for trial in tuner
        if trial.outcome not in ("unavailable", "absent")
    ]
    print_table(["pattern", "backend", "precision", "threads", "outcome", "p50 us"], rows)
    reasons = _reasons(tuner)
    if reasons:
        print_table(["backend", "why it is not taken"], reasons)


def _reasons(tuner: Sequence[Trial]) -> list[list[str]]:
    found = {
        (trial.candidate.backend, trial.detail): None
        for trial in tuner
        if trial.outcome in ("unavailable", "refused", "heavier")
    }
    return [[backend, detail] for backend, detail in found]


@dataclass(frozen=True)
class RunOptions:
    """How inputs become answers, and how those are shown."""

    pattern: Pattern | None = None
    """Modalities to use; None: what is present."""
    threshold: float = 0.0
    """Probability below which the winner is not named."""
    top_k: int = 0
    """Classes to rank."""
    policy: Policy = field(default_factory=Policy)
    """The predictor's."""
    layout: str = "table"
    save: Path | None = None
    latency: bool = False


_FEWEST = 20
"""Answers of which percentiles say something."""


@dataclass
class Tally:
    """What became of the inputs."""

    failed: int = 0
    seconds: array[float] = field(default_factory=lambda: array("d"))
    """Of each answer."""

    @property
    def total(self) -> int:
        """Inputs that were read or could not be."""
        return self.failed + len(self.seconds)

    def latency(self) -> str:
        """Percentiles over the answers, for people."""
        told = f"latency of {len(self.seconds)} answers:"
        if len(self.seconds) < _FEWEST:
            low, high = min(self.seconds) * 1e3, max(self.seconds) * 1e3
            return f"{told} {low:.3f} to {high:.3f} ms; percentiles want {_FEWEST} answers"
        p50, p90, p99 = np.percentile(self.seconds, (50, 90, 99)) * 1e3
        return f"{told} p50 {p50:.3f} ms, p90 {p90:.3f} ms, p99 {p99:.3f} ms"


def answer_all(
    recognizer: Recognizer, reader: Reader, rules: RunOptions, writers: Sequence[Writer], tell: Tell
) -> Tally:
    """Answer every input with every writer, not closing them; broken ones go to standard error.

    tell: of every answer within a recording, and of every input that is done.

    Raises InputError for a broken input when it is the only one, and when none has an answer.
    """
    tally = Tally()
    for lazy in reader.items():
        try:
            for answer in _answers(recognizer, lazy, rules):
                tally.seconds.append(answer.prediction.seconds)
                for writer in writers:
                    writer.add(answer)
                if answer.span is not None:
                    tell(lazy, answer.span[1])
        except _Unanswered as error:
            tally.failed += 1
            for writer in writers:
                writer.fail(_printable(error.name), _printable(str(error)))
            if reader.count == 1:
                raise InputError(str(error)) from error
            log_line(f"error: {error}")
        tell(lazy, None)
    _require_some(tally)
    return tally


class _Unanswered(Exception):  # noqa: N818 - an outcome
    """One input has no answer; the message is one line that begins with where it is."""

    def __init__(self, lazy: LazySample, name: str, error: IfmminError) -> None:
        told = " ".join(str(error).split())
        super().__init__(told if told.startswith(lazy.where) else f"{lazy.where}: {told}")
        self.name = name


def _answers(recognizer: Recognizer, lazy: LazySample, rules: RunOptions) -> Iterator[Answer]:
    """The answer to an input; of a long recording one for every utterance in it."""
    try:
        sample = lazy.read()
    except InputError as error:
        raise _Unanswered(lazy, lazy.name, error) from error
    name = _printable(sample.name)
    try:
        for prediction, span in _predictions(recognizer, sample, rules):
            sure = float(prediction.probabilities.max()) >= rules.threshold
            ranking = _ranking(recognizer.labels, prediction, rules.top_k)
            yield Answer(name, prediction, prediction.label if sure else None, ranking, span)
    except IfmminError as error:
        if isinstance(error, InputError) or not _has_graph(recognizer.predictor, sample, rules):
            raise _Unanswered(lazy, sample.name, error) from error
        raise


Span = tuple[float, float] | None


def _predictions(
    recognizer: Recognizer, sample: Sample, rules: RunOptions
) -> Iterator[tuple[Prediction, Span]]:
    if sample.signals is None:
        yield recognizer.predictor.predict(
            sample.utterance, pattern=rules.pattern, quality=sample.quality,
            frontends=sample.frontends,
        ), None  # fmt: skip
        return
    taken = sample.signals.of(recognizer.modalities)
    sound, text, face = taken.sound, taken.text, taken.face
    wanted = rules.pattern
    whole = sound is None or face is not None or duration(sound) <= LONGEST
    if not whole and not hasattr(recognizer.frontend(Modality.A), "utterances"):
        kind = recognizer.frontend(Modality.A).describe().kind
        log_line(f"note: {sound}: {kind} does not cut recordings: answered as one utterance")
        whole = True
    if whole or sound is None:
        yield recognizer.recognize(sound=sound, text=text, face=face, pattern=wanted), None
        return
    for spoken in recognizer.utterances(sound, text=text, pattern=wanted):
        yield spoken.prediction, (spoken.start, spoken.end)


def _has_graph(predictor: Predictor, sample: Sample, rules: RunOptions) -> bool:
    """Whether the bundle can answer such an input, or none at all: then it is at fault itself."""
    if not predictor.patterns or sample.signals is not None:
        return True
    specs = predictor.bundle.manifest.modalities
    found = validate(sample.utterance, specs, rules.policy, sample.quality, only=rules.pattern)
    return Pattern.of(found.features) in predictor.patterns


def _ranking(labels: Sequence[str], prediction: Prediction, top_k: int) -> list[tuple[str, float]]:
    shares: list[float] = prediction.probabilities.tolist()
    ranked = sorted(zip(labels, shares, strict=True), key=lambda pair: -pair[1])
    return ranked[:top_k]


def _printable(text: str) -> str:
    """`text` without what UTF-8 cannot hold, such as names of files in another encoding."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _require_some(tally: Tally) -> None:
    if not tally.total:
        raise InputError("got no input; standard input held no line")
    if tally.failed == tally.total:
        raise InputError(f"none of the {tally.total} inputs could be answered")
    if tally.failed:
        log_line(f"{tally.failed} of {tally.total} inputs could not be answered")


EXIT_SOME_FAILED = 1


app = new_app()


# fmt: off
@command(
    app,
    "ifmmin-run clip.wav --text 'I am fine.'",
    "ifmmin-run recordings/ --format csv -o answers.csv",
    "arecord -f S16_LE -r 16000 | ifmmin-run --pcm 16000 -",
    "cat events.jsonl | ifmmin-run --stream - -b bundle --window 5 --hop 0.5",
)
def run(
    inputs: Annotated[list[str] | None, typer.Argument(
        metavar="INPUT...", show_default=False,
        help="Recordings (clip.txt beside clip.wav is its text), .npz with arrays a, v, t (frames, "
        "features), directories of both, .jsonl, or - for lines of JSON on standard input.",
    )] = None,
    bundle: BundleOption = None,
    text: Annotated[str | None, signals(
        "What is said in the recording, or a sentence by itself.", "--text",
        metavar="TEXT")] = None,
    asr: Annotated[bool, signals(
        "Recognise the words of recordings without text (English; extra asr).", "--asr")] = False,
    mic: Annotated[bool, signals(
        "Listen to the microphone until Ctrl-C (extra mic).", "--mic")] = False,
    pcm: Annotated[int | None, signals(
        "Hear INPUT, a file or -, as raw 16-bit mono sound of this rate.", "--pcm",
        metavar="HZ")] = None,
    plot: Annotated[Path | None, answers(
        "Draw the answers, as .png, .svg or .pdf (extra plot).", "--plot",
        metavar="FILE")] = None,
    pattern: Annotated[str, answers("Use only these, e.g. a_t; auto: what is present.")] = "auto",
    nan: Annotated[NanFrames, answers("What to do with frames with a NaN.")] = "refuse",
    min_quality: Annotated[list[str] | None, answers(
        "Quality below which a modality is missing; repeat.", metavar="v=0.5")] = None,
    threshold: Annotated[float, answers(
        "Name no class less probable than this, 0 to 1.", metavar="P")] = 0.0,
    top_k: Annotated[int | None, answers("Show the K most probable classes.", metavar="K")] = None,
    on_empty: Annotated[OnEmpty, answers(
        "With nothing present: an error, or the classes' prior.")] = "error",
    layout: Annotated[Layout, answers("How answers are printed.", "--format")] = "table",
    save: Annotated[Path | None, answers(
        "Also write the answers, as .csv or .jsonl.", "--save", "-o", metavar="FILE")] = None,
    latency: Annotated[bool, answers(
        "Print percentiles of the latency on standard error.", "--latency")] = False,
    backend: Annotated[str, execution(
        f"What runs the graphs: auto or one of {', '.join(BACKENDS)}.",
        envvar="IFMMIN_BACKEND")] = "auto",
    precision: Annotated[str, execution(
        "Of the graphs: fp32, another that was exported, or auto for the fastest.")] = "fp32",
    threads: Annotated[str, execution(
        "Threads inside one call, or auto.", metavar="N", envvar="IFMMIN_THREADS")] = "1",
    executor: Annotated[Executor, execution(
        "ray: score very many inputs, in parts in the directory of --save (extra ray).")] = "here",
    spinning: Annotated[bool, execution(
        "Let threads wait busily: sooner, at a core's cost.", "--spinning")] = False,
    preload: Annotated[bool, execution(
        "Load the graphs of all patterns first, sharing.", "--preload")] = False,
    cache: Annotated[Path | None, execution(
        "Where engines and choices are kept; default: the user's cache.", metavar="DIR",
        envvar="IFMMIN_CACHE")] = None,
    explain: Annotated[bool, execution(
        "Try every way to run every pattern, and show them.", "--explain")] = False,
    stream: Annotated[str | None, streams(
        "Lines of JSON: push, set_text, clear, drop, ..., tick.", metavar="FILE|-")] = None,
    window: Annotated[float | None, streams("Answer from the last S seconds.", metavar="S")] = None,
    hop: Annotated[float | None, streams(
        "Cut the past every S seconds; needs --window.", metavar="S")] = None,
    stale_after: Annotated[list[str] | None, streams(
        "Seconds of silence after which a modality is missing; repeat.", metavar="v=2.5")] = None,
    late: Annotated[Late | None, streams(
        "Frames older than the newest: an error (default), left out, or heard as newest.")] = None,
    smooth: Annotated[float | None, streams(
        "Half-life of former probabilities, seconds.", metavar="S")] = None,
    margin: Annotated[float | None, streams(
        "Lead that another class needs, 0 to 1.", metavar="P")] = None,
    patience: Annotated[int | None, streams(
        "Answers for which it has to lead.", metavar="N")] = None,
    clock: Annotated[bool, streams(
        "The time of an event is that of its arrival.", "--clock")] = False,
    tick: Annotated[float | None, streams(
        "Answer every S seconds of silence, too; needs --clock.", metavar="S")] = None,
    snapshot: Annotated[Path | None, streams(
        "Go on from this snapshot, and keep one here at the end.", metavar="FILE")] = None,
    replay: Annotated[Replay | None, streams("Hold events back until their times, or not.")] = None,
    live: Annotated[bool, streams(
        "Show the answer on the terminal as it changes.", "--live")] = False,
) -> int:
    """Recognise emotion with a bundle, whichever modalities are present.

    Exit code 1 where some inputs have no answer.
    """
    session = SessionOptions(
        window, hop, stale_after or (), late, smooth, margin, patience, clock, tick, snapshot,
        replay, live,
    )  # fmt: skip
    hears = mic or pcm is not None
    if stream is None:
        session.require_none(live=hears)
    else:
        _require_for_streams(inputs, pattern, layout, preload, explain)
        session.require_consistent()
    rules = RunOptions(
        pattern=None if pattern == "auto" else Pattern.parse(pattern),
        threshold=_probability("--threshold", threshold),
        top_k=_top_k(top_k),
        policy=Policy(nan, numbers_by_modality("--min-quality", min_quality or ())),
        layout=layout,
        save=save,
        latency=latency,
    )

    chosen: dict[str, Any] = {
        "backend": backend, "precision": precision, "threads": parse_threads(threads),
        "preload": preload, "on_empty": on_empty, "policy": rules.policy,
    }  # fmt: skip
    if executor == "ray":
        _require_for_ray(stream, hears, text, plot, explain, rules)
        chosen["options"] = BackendOptions(spinning=spinning, cache=cache)
        chosen["transcribe"] = _transcriber(asr)
        return _score(inputs or (), rules, require_bundle(bundle), chosen)

    def open_predictor() -> Predictor:
        options = BackendOptions(spinning=spinning, progress=log_line, cache=cache)
        found = Predictor(require_bundle(bundle), **chosen, options=options)
        _require_classes(rules.top_k, len(found.labels))
        return found

    if stream is not None:
        from .stream import run_stream

        return run_stream(stream, session, rules, open_predictor)
    if hears:
        from .listen import listen

        return listen(mic, pcm, inputs or (), text, session, rules, open_predictor)
    if not inputs and text is None and not explain:
        raise InputError(
            "got no input; give recordings, .npz or .jsonl files, directories, --text, --mic, or -"
        )
    reader = find_inputs(inputs or (), text)
    if plot is not None:
        from .plot import require_plot

        require_plot(plot)
    predictor = open_predictor()
    if explain:
        print_explanation(predictor)
    if reader.count == 0:
        return 0
    recognizer = Recognizer(predictor, transcribe=_transcriber(asr))
    return _answer_inputs(recognizer, reader, rules, plot)


# fmt: on
main = entry_point(app, "ifmmin-run")


def _require_for_ray(
    stream: str | None, hears: bool, text: str | None, plot: Path | None, explain: bool,
    rules: RunOptions,
) -> None:  # fmt: skip
    """InputError for options that mean nothing with parts in Parquet."""
    for name, given in (
        ("--stream", stream is not None), ("--mic or --pcm", hears), ("--text", text is not None),
        ("--plot", plot is not None), ("--explain", explain), ("--latency", rules.latency),
        ("--threshold", rules.threshold > 0), ("--top-k", rules.top_k > 0),
        ("--format", rules.layout != "table"),
    ):  # fmt: skip
        if given:
            raise InputError(f"{name} does not go with --executor ray; it writes parts of Parquet")


def _score(inputs: Sequence[str], rules: RunOptions, bundle: Path, options: dict[str, Any]) -> int:
    out = rules.save
    if out is None or out.suffix in LAYOUT_OF or out.is_file():
        raise InputError("--executor ray writes parts; name their directory by --save DIR")
    from ..scoring import score

    rows, failed = score([Path(one) for one in inputs], out, bundle, rules.pattern, **options)
    log_line(f"wrote {rows} rows to {out}, {failed} of them errors")
    return EXIT_SOME_FAILED if failed else 0


def _transcriber(asked: bool) -> Callable[[Sound], str] | None:
    if not asked:
        return None
    from ..frontends.moonshine import transcribe

    return transcribe


def _answer_inputs(
    recognizer: Recognizer, reader: Reader, rules: RunOptions, plot: Path | None
) -> int:
    labels, timed = recognizer.labels, bool(reader.sounds)
    with ExitStack() as stack:
        writers = [make_writer(rules.layout, labels, rules.top_k, write, print_table, timed)]
        if rules.save is not None:
            keep = stack.enter_context(saved_lines(rules.save))
            writers.append(_file_writer(rules, rules.save, labels, keep, timed))
        if plot is not None:
            from .plot import PlotWriter

            specs = recognizer.predictor.bundle.manifest.modalities
            writers.append(PlotWriter(labels, list(specs), plot))
        with shown_progress(reader, rules.layout) as tell:
            tally = answer_all(recognizer, reader, rules, writers, tell)
        for writer in writers:
            writer.close()
    if rules.latency:
        log_line(tally.latency())
    return EXIT_SOME_FAILED if tally.failed else 0


def _require_for_streams(
    inputs: Sequence[str] | None, pattern: str, layout: str, preload: bool, explain: bool
) -> None:
    """InputError for options that mean nothing with a session of events."""
    for name, given, instead in (
        ("an input", bool(inputs), "name the session alone: --stream FILE or --stream -"),
        ("--pattern", pattern != "auto", "leave a modality out with a drop event"),
        ("--format csv", layout == "csv", "answers are lines of JSON"),
        ("--preload", preload, "a stream loads all its graphs first"),
        ("--explain", explain, "ask for it alone"),
    ):
        if given:
            raise InputError(f"{name} does not go with --stream; {instead}")


def _probability(option: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise InputError(f"{option}: got {value}, wanted a probability, 0 to 1")
    return value


def _top_k(given: int | None) -> int:
    if given is not None and given < 1:
        raise InputError(f"--top-k: got {given}, wanted at least 1")
    return given or 0


def _require_classes(top_k: int, classes: int) -> None:
    if top_k > classes:
        raise InputError(f"--top-k: got {top_k}, the bundle has {classes} classes")


def _file_writer(
    rules: RunOptions, path: Path, labels: Sequence[str], keep: Write, timed: bool
) -> Writer:
    layout = LAYOUT_OF.get(path.suffix) or rules.layout

    def show(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
        keep(f"{title}\n\n{markdown_table(headers, rows)}")

    return make_writer(layout, labels, rules.top_k, keep, show, timed)


if __name__ == "__main__":
    sys.exit(main())
