"""`ifmmin-run --stream`: an answer for every event, a line for every mistake, among processes."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_command import (
    BACKEND,
    STREAM,
    conversation,
    event,
    frames,
    line,
    npz,
    refused,
    run,
    run_documented,
    run_python,
)

from ifmmin.runtime import Predictor, Smoothing, StreamOptions
from ifmmin.runtime.cli.stream import Interrupts

TIMED = [
    event("push", at=0.4, a=frames("a", 4), v=frames("v", 4)),
    event("push", at=0.8, a=frames("a", 4, 1), v=frames("v", 4, 1)),
    event("set_text", at=1.0, tokens=frames("t", 6)), event("push", at=1.6, a=frames("a", 8, 2)),
    event("push", at=0.6, v=frames("v", 2, 3)), event("tick", at=2.3),
    event("push", at=2.9, v=frames("v", 2, 2)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--window", 1, "--hop", 0.25), {"window": 1.0, "hop": 0.25}),
        (("--late", "skip"), {"late": "skip"}),
        (("--stale-after", "v=1.5", "--stale-after", "a=1"), {"stale_after": {"v": 1.5, "a": 1}}),
        (
            ("--smooth", 0.8, "--margin", 0.1, "--patience", 2),
            {"smoothing": Smoothing(0.8, 0.1, 2)},
        ),
        (("--margin", 0.9), {"smoothing": Smoothing(margin=0.9)}),
    ],
    ids=lambda value: value[0][2:] if isinstance(value, tuple) else "",
)
def test_what_options_mean(bundle: Path, options: Sequence[object], told: dict[str, Any]) -> None:
    told = {"late": "append", **told}
    ran = run(bundle, *STREAM, "--late", "append", *options, stdin=TIMED)
    assert ran.code == 0
    assert [a["at"] for a in ran.answers] == [0.4, 0.8, 1.0, 1.6, 1.6, 2.3, 2.9]
    predictor = Predictor(bundle, backend="onnxruntime-cpu")
    stream = predictor.stream(StreamOptions(**told))
    plain = run(bundle, *STREAM, "--late", "append", stdin=TIMED).answers
    for sent, answer in zip(map(json.loads, TIMED), ran.answers, strict=True):
        if "tokens" in sent:
            stream.set_text(sent["tokens"], at=sent["at"])
        else:
            stream.push({m: sent[m] for m in "avt" if m in sent}, at=sent["at"])
        truth = stream.predict(at=sent["at"])
        assert (answer["label"], answer["pattern"]) == (truth.label, str(truth.pattern))
        np.testing.assert_allclose(list(answer["probabilities"].values()), truth.probabilities)
        assert list(answer["probabilities"]) == list(predictor.labels)
        np.testing.assert_allclose(answer["logits"], truth.logits)
        assert answer["frames"] == stream.frames
        assert answer.get("absent", {}) == truth.absent
    timeless = [[{**a, "seconds": 0} for a in answers] for answers in (ran.answers, plain)]
    assert "late" in str(options) or "0.9" in str(options) or timeless[0] != timeless[1]
    late = [a["late_frames"] for a in ran.answers if "late_frames" in a]
    assert late == ([{"v": 2}] * 3 if "skip" in options else [])


def test_options_of_utterances_hold_for_streams(bundle: Path) -> None:
    poor = frames("a", 4)
    poor[1][2] = None  # type: ignore[call-overload]
    sent = [
        event("push", a=poor, v=frames("v", 3), quality={"v": 0.2}, id=7),
        event("push", v=frames("v", 3), quality={"v": 0.9}, id="é"),
    ]
    options = ("--nan", "drop", "--min-quality", "v=0.5", "--top-k", 2, "--threshold", 0.999)
    ran = run(bundle, *STREAM, *options, "--latency", stdin=sent)
    first, second = ran.answers
    assert [first["id"], second["id"]] == [7, "é"]
    assert first["absent"] == {"v": "quality 0.2 is below 0.5", "t": "not given"}
    assert first["dropped_frames"] == second["dropped_frames"] == {"a": 1}
    assert first["frames"] == {"a": 3, "v": 0, "t": 0}
    shares = first["probabilities"]
    best = sorted(shares, key=shares.__getitem__, reverse=True)[:2]
    assert first["top"] == [{"label": b, "probability": shares[b]} for b in best]
    assert [a["label"] for a in ran.answers] == [None, None]
    assert re.match(r"latency of 2 answers: \S+ to \S+ ms; percentiles want 20", ran.err)
    (answer,) = run(bundle, *STREAM, "--threshold", 0.2, stdin=sent[1:]).answers
    assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].__getitem__)
    assert "top" not in answer


def test_with_nothing_there_the_prior_may_answer(bundle: Path) -> None:
    ran = run(bundle, *STREAM, "--on-empty", "prior", stdin=[event("tick", at=1)])
    if ran.code == 2:
        assert "does not know how often classes occur" in ran.err
    else:
        (answer,) = ran.answers
        assert (answer["pattern"], answer["backend"]) == (None, "prior")


def test_a_broken_line_ends_nothing(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "session.jsonl"
    broken = [event("shout"), event("push", id="x", a=[[1]]), '{"event": "push", "at": NaN}']
    lines = [event("push", a=frames("a", 4)), "", *broken, event("push", v=frames("v", 4))]
    path.write_text("\n".join(lines))
    ran = run(bundle, "--stream", path)
    assert ran.code == 1
    assert [a["line"] for a in ran.answers] == [1, 3, 4, 5, 6]
    assert [a.get("label") is None for a in ran.answers] == [False, True, True, True, False]
    assert ran.answers[4]["pattern"] == "a_v"
    *said, last = ran.err.splitlines()
    assert last == "3 of 5 events have no answer"
    wanted = ("Invalid value 'shout'", "got shape (1, 1), wanted (frames, 5)", "write null for it")
    for text, answer, part in zip(said, ran.answers[1:4], wanted, strict=True):
        assert text == f"error: {answer['error']}"
        assert answer["error"].startswith(f"{path}, line {answer['line']}: ")
        assert part in answer["error"]
    assert [a.get("id") for a in ran.answers[1:4]] == [None, "x", None]
    assert [a.get("event") for a in ran.answers[1:4]] == [None, "push", None]


def test_a_pattern_without_a_head_ends_nothing(make_bundle: Any) -> None:
    few = make_bundle(("a", "v"), shapes=("latency", "stream"))
    sent = [event("push", a=frames("a", 4)), event("push", v=frames("v", 4))]
    ran = run(few, *STREAM, stdin=[*sent, event("drop", modality="a")])
    assert ran.code == 1
    assert [a.get("pattern") for a in ran.answers] == ["a", None, "v"]
    assert "no head for streams of pattern a_v" in ran.answers[1]["error"]


def test_saved_lines_are_those_shown(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "answers.jsonl"
    ran = run(bundle, *STREAM, "--save", out, stdin=[*TIMED, "broken"])
    assert out.read_text(encoding="utf-8") == ran.out
    assert ran.out.count("\n") == len(TIMED) + 1


def test_real_time_wants_times_at_once(bundle: Path) -> None:
    said = refused(bundle, *STREAM, "--replay", "real", stdin=[event("push", a=frames("a", 4))])
    assert "stdin, line 1: a push without `at` cannot be replayed in real time" in said


def test_who_streams_nothing_imports_no_streams(bundle: Path, tmp_path: Path) -> None:
    clip = npz(tmp_path / "clip.npz", a=np.array(frames("a", 4)))
    script = (
        "from ifmmin.runtime.cli.run import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "found = {m for m in sys.modules if m.startswith('ifmmin.runtime.stream.')}\n"
        # Options are public names of the package; by graphs patterns may share their encoders.
        "some = {f'ifmmin.runtime.stream.{name}' for name in ('options', 'graphs')}\n"
        "sys.exit(', '.join(found - some) or 0)"
    )
    ran = run_python(script, "-b", bundle, clip, *BACKEND)
    assert (ran.code, ran.err) == (0, "")


def test_utterances_are_no_events(bundle: Path, make_bundle: Any) -> None:
    ran = run(bundle, *STREAM, stdin=[line("a")])
    assert (ran.code, ran.answers[0]["line"]) == (1, 1)
    assert "missing required field `event`" in ran.err
    without = make_bundle(("a",), shapes=("latency",))
    assert "export it" in refused(without, *STREAM, stdin=[event("push", a=frames("a", 4))])


def test_the_commands_of_the_documentation_run(bundle: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").symlink_to(bundle)
    (tmp_path / "session.jsonl").write_text(event("push", a=frames("a", 4)))
    done = run_documented(root, tmp_path, "bash")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 3)
    assert (tmp_path / "kept.bin").is_file()


def test_every_event_and_field_is_documented(bundle: Path, root: Path) -> None:
    page = (root / "docs" / "run.md").read_text(encoding="utf-8")
    page = page[page.index("## Streams") : page.index("## Exit codes")]
    ran = run(bundle, *STREAM, "--top-k", 1, stdin=[*TIMED, "broken"])
    fields = {field for answer in ran.answers for field in answer}
    events = {"push", "set_text", "clear", "drop", "restore", "reset", "tick"}
    for name in fields | events | {"dropped_frames", "late_frames", "quality", "tokens"}:
        assert f"`{name}`" in page, name


SESSION = [
    event("push", at=0.5, a=frames("a", 5), v=frames("v", 5)),
    event("push", at=1.0, a=frames("a", 5, 1)), event("set_text", at=1.2, tokens=frames("t", 6)),
    event("drop", modality="a"), event("push", at=1.5, a=frames("a", 3, 2), v=frames("v", 3, 2)),
    event("restore", modality="a"), event("push", at=2.5, a=frames("a", 1, 3)),
    event("tick", at=5.0),
]  # fmt: skip


def timeless(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what differs from run to run, and with numbers counted from the first line."""
    return [{k: x for k, x in a.items() if k not in ("seconds", "line")} for a in answers]


def test_an_event_is_answered_before_the_next_is_sent(bundle: Path) -> None:
    with conversation(bundle) as talk:
        for number, line in enumerate([*SESSION[:3], "garbage", *SESSION[3:]], start=1):
            answer = talk.ask(line)
            assert answer["line"] == number
            assert ("error" in answer) == (line == "garbage")
        code, out, err = talk.end()
    assert (code, out) == (1, "")
    assert err.startswith("error: stdin, line 4: ")
    assert err.count("\n") == 2


WINDOW = ("--window", 2, "--hop", 0.5, "--smooth", 1, "--stale-after", "v=2")


@pytest.mark.parametrize("options", [(), WINDOW], ids=["all so far", "window"])
def test_two_processes_are_one(bundle: Path, tmp_path: Path, options: tuple[object, ...]) -> None:
    whole = run(bundle, *STREAM, *options, stdin=SESSION)
    kept = ("--snapshot", tmp_path / "deep" / "session.bin")
    for cut in (1, 4, 6):
        with conversation(bundle, *options, *kept) as talk:
            first = [talk.ask(line) for line in SESSION[:cut]]
            assert talk.end()[0] == 0
        second = run(bundle, *STREAM, *options, *kept, stdin=SESSION[cut:])
        assert second.code == 0
        assert timeless(first + second.answers) == timeless(whole.answers)
        kept[1].unlink()
    anew = run(bundle, *STREAM, *options, stdin=SESSION[6:])
    assert timeless(anew.answers) != timeless(whole.answers[6:])


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted; nothing was left half written\n"),
        (signal.SIGTERM, 143, ""),
        (signal.SIGHUP, 129, ""),
    ],
)
def test_ended_and_resumed(bundle: Path, tmp_path: Path, number: int, code: int, said: str) -> None:
    kept = ("--snapshot", tmp_path / "session.bin")
    whole = run(bundle, *STREAM, stdin=SESSION)
    with conversation(bundle, *kept) as talk:
        first = [talk.ask(line) for line in SESSION[:3]]
        talk.process.send_signal(number)
        assert talk.end() == (code, "", said)
    assert [path.name for path in tmp_path.iterdir()] == ["session.bin"]
    second = run(bundle, *STREAM, *kept, stdin=SESSION[3:])
    assert timeless(first + second.answers) == timeless(whole.answers)


def test_snapshots_that_cannot_be_used(bundle: Path, tmp_path: Path) -> None:
    kept = tmp_path / "session.bin"
    assert run(bundle, *STREAM, "--snapshot", kept, stdin=SESSION).code == 0
    content = kept.read_bytes()
    damaged = bytearray(content)
    damaged[-3] ^= 1
    for bad, options, wanted in (
        (b"no snapshot", (), "are no snapshot of a stream"),
        (bytes(damaged), (), "is damaged"),
        (content, ("--window", 1), "other options"),
    ):
        kept.write_bytes(bad)
        said = refused(bundle, *STREAM, "--snapshot", kept, *options, stdin=SESSION)
        assert said.startswith(f"error: {kept}: ")
        assert wanted in said
        assert kept.read_bytes() == bad
    said = refused(bundle, *STREAM, "--snapshot", tmp_path, stdin=SESSION)
    assert "it is a directory" in said


def test_a_snapshot_outlives_a_broken_line(bundle: Path, tmp_path: Path) -> None:
    kept = ("--snapshot", tmp_path / "session.bin")
    assert run(bundle, *STREAM, *kept, stdin=[*SESSION[:5], "garbage"]).code == 1
    second = run(bundle, *STREAM, *kept, stdin=SESSION[5:])
    whole = run(bundle, *STREAM, stdin=SESSION)
    assert timeless(second.answers) == timeless(whole.answers[5:])


def test_silence_is_answered_by_the_clock(bundle: Path) -> None:
    options = ("--clock", "--tick", 0.1, "--stale-after", "a=0.3")
    with conversation(bundle, *options) as talk:
        first = talk.hear()
        while first["line"] is None:  # silence, before the first line is sent
            assert first["absent"] == dict.fromkeys("avt", "not given")
            talk.send(event("push", a=frames("a", 5)))
            first = talk.hear()
        assert (first["line"], first["label"] is None) == (1, False)
        quiet = talk.hear()
        while quiet["label"] is not None:
            assert (quiet["line"], quiet["event"], quiet["pattern"]) == (None, "tick", "a")
            assert quiet["at"] - first["at"] <= 0.3
            quiet = talk.hear()
        assert quiet["absent"]["a"].startswith("silent for 0.")
        assert quiet["at"] - first["at"] > 0.3
        code, _, err = talk.end()
    assert (code, err) == (0, "")


def test_a_recorded_session_takes_its_time(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "session.jsonl"
    moments = [10.0, 10.2, 10.2, 10.6]
    path.write_text("\n".join(event("tick", at=at) for at in moments))
    started = time.monotonic()
    fast = run(bundle, "--stream", path, "--replay", "fast")
    between = time.monotonic()
    real = run(bundle, "--stream", path, "--replay", "real")
    assert time.monotonic() - between >= 0.6
    assert between - started < 60
    assert timeless(real.answers) == timeless(fast.answers)


def test_a_reader_that_goes_away_is_no_error(bundle: Path, tmp_path: Path) -> None:
    kept = tmp_path / "session.bin"
    with conversation(bundle, "--snapshot", kept) as talk:
        talk.ask(SESSION[0])
        assert talk.turn_away(SESSION[1]) == (128 + signal.SIGPIPE, "")
    assert kept.exists()


_SIGNALLED = """
import signal
from ifmmin.runtime.cli.stream import Interrupts

numbers = signal.SIGINT, signal.SIGTERM
before = [signal.getsignal(number) for number in numbers]
for number, raised in zip(numbers, (KeyboardInterrupt, SystemExit)):
    done = False
    try:
        with Interrupts() as interrupts, interrupts.held():
            signal.raise_signal(number)
            done = True
    except raised as error:
        assert done and getattr(error, "code", None) in (None, 143), error
    else:
        raise AssertionError("it was not delivered")
try:
    with Interrupts():
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it waited")
except KeyboardInterrupt:
    pass
assert [signal.getsignal(number) for number in numbers] == before
"""
_IGNORED = """
import signal
from ifmmin.runtime.cli.stream import Interrupts

signal.signal(signal.SIGINT, signal.SIG_IGN)
with Interrupts():
    signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""


@pytest.mark.parametrize("script", [_SIGNALLED, _IGNORED])
def test_signals_wait_for_the_end_of_an_event_and_ignored_ones_stay_so(script: str) -> None:
    """In a process of its own, whose main thread this is for sure."""
    ran = run_python(script)
    assert (ran.code, ran.err) == (0, "")


def test_other_threads_leave_signals_alone() -> None:
    entered = []

    def enter() -> None:
        with Interrupts() as interrupts, interrupts.held():
            entered.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [before]


MISTAKES: list[tuple[tuple[object, ...], str]] = [
    (("--stream", "-", "--window", -1), "window: got -1.0, wanted a number of seconds above 0"),
    (("--stream", "-", "--window", "nan"), "window: got nan"),
    (("--stream", "-", "--hop", 1), "got a hop without a window"),
    (("--stream", "-", "--window", 1, "--hop", 0.3), "not a whole number of hops"),
    (("--stream", "-", "--late", "never"), "'--late': 'never' is not one of 'refuse', 'skip', 'a"),
    (("--stream", "-", "--stale-after", "v"), "--stale-after: got 'v', wanted for example v=0.5"),
    (("--stream", "-", "--stale-after", "x=1"), "--stale-after: got 'x=1'"),
    (("--stream", "-", "--stale-after", "v=0"), "stale_after of v: got 0.0"),
    (("--stream", "-", "--margin", 2), "smoothing margin: got 2.0"),
    (("--stream", "-", "--patience", 0), "smoothing patience: got 0"),
    (("--stream", "-", "--smooth", -1), "smoothing half_life: got -1.0"),
    (("--stream", "-", "--replay", "slow"), "'--replay': 'slow' is not one of 'real', 'fast'"),
    (("--stream", "-", "--replay", "fast", "--clock"), "choose one"),
    (("--stream", "-", "--tick", 1), "--tick needs --clock"),
    (("--stream", "-", "--tick", 0, "--clock"), "--tick: got 0.0"),
    (("--stream", "-", "--live"), "--live draws on a terminal, and standard output is none"),
    (("--stream", "-", "--preload"), "--preload does not go with --stream"),
    (("--stream", "-", "--explain"), "--explain does not go with --stream"),
    (("--stream", "-", "--pattern", "a"), "leave a modality out with a drop event"),
    (("--stream", "-", "--format", "csv"), "--format csv does not go with --stream"),
    (("clip.npz", "--stream", "-"), "an input does not go with --stream"),
    (("--stream", "none.jsonl"), "no input at none.jsonl"),
    (("--stream", "-", "--save", "x.csv"), "name it .jsonl"),
    (("--stream", "-", "--top-k", 9), "the bundle has 4 classes"),
    (("--stream", "-"), "got no event; stdin held no line"),
    (("-", "--live"), "--live is for streams; give --stream"),
    (("-", "--window", 0), "--window is for streams; give --stream"),
]


@pytest.mark.parametrize(("arguments", "wanted"), MISTAKES, ids=lambda value: str(value)[:60])
def test_mistakes_are_one_line(bundle: Path, arguments: tuple[object, ...], wanted: str) -> None:
    assert wanted in refused(bundle, *arguments)
