"""`ifmmin-run --stream` among other processes: answers at once, snapshots, signals, the clock."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from run_command import run
from small_bundles import ALL, small_bundle
from stream_process import conversation, event, frames

from ifmmin.runtime.stream.cli_stream import Interrupts


@pytest.fixture(scope="module")
def bundle(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(make_network, tmp_path_factory, ALL, shapes=("latency", "stream"))


SESSION = [
    event("push", at=0.5, a=frames("a", 5), v=frames("v", 5)),
    event("push", at=1.0, a=frames("a", 5, 1)),
    event("set_text", at=1.2, tokens=frames("t", 6)),
    event("drop", modality="a"),
    event("push", at=1.5, a=frames("a", 3, 2), v=frames("v", 3, 2)),
    event("restore", modality="a"),
    event("push", at=2.5, a=frames("a", 1, 3)),
    event("tick", at=5.0),
]


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


OPTIONS = ("--window", 2, "--hop", 0.5, "--smooth", 1, "--stale-after", "v=2")


@pytest.mark.parametrize("options", [(), OPTIONS], ids=["all so far", "window"])
def test_two_processes_with_a_snapshot_are_one(
    bundle: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    whole = run(bundle, "--stream", "-", *options, stdin=SESSION)
    kept = ("--snapshot", tmp_path / "deep" / "session.bin")
    for cut in (1, 4, 6):
        with conversation(bundle, *options, *kept) as talk:
            first = [talk.ask(line) for line in SESSION[:cut]]
            assert talk.end()[0] == 0
        second = run(bundle, "--stream", "-", *options, *kept, stdin=SESSION[cut:])
        assert second.code == 0
        assert timeless(first + second.answers) == timeless(whole.answers)
        kept[1].unlink()
    anew = run(bundle, "--stream", "-", *options, stdin=SESSION[6:])
    assert timeless(anew.answers) != timeless(whole.answers[6:])


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted; nothing was left half written\n"),
        (signal.SIGTERM, 143, ""),
    ],
)
def test_a_session_that_is_ended_can_go_on(
    bundle: Path, tmp_path: Path, number: int, code: int, said: str
) -> None:
    kept = ("--snapshot", tmp_path / "session.bin")
    whole = run(bundle, "--stream", "-", stdin=SESSION)
    with conversation(bundle, *kept) as talk:
        first = [talk.ask(line) for line in SESSION[:3]]
        talk.process.send_signal(number)
        assert talk.end() == (code, "", said)
    assert [path.name for path in tmp_path.iterdir()] == ["session.bin"]
    second = run(bundle, "--stream", "-", *kept, stdin=SESSION[3:])
    assert timeless(first + second.answers) == timeless(whole.answers)


def test_snapshots_that_cannot_be_used(bundle: Path, tmp_path: Path) -> None:
    kept = tmp_path / "session.bin"
    assert run(bundle, "--stream", "-", "--snapshot", kept, stdin=SESSION).code == 0
    content = kept.read_bytes()
    damaged = bytearray(content)
    damaged[-3] ^= 1
    for bad, options, wanted in (
        (b"no snapshot", (), "are no snapshot of a stream"),
        (bytes(damaged), (), "is damaged"),
        (content, ("--window", 1), "other options"),
    ):
        kept.write_bytes(bad)
        ran = run(bundle, "--stream", "-", "--snapshot", kept, *options, stdin=SESSION)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert ran.err.startswith(f"error: {kept}: ")
        assert wanted in ran.err
        assert kept.read_bytes() == bad
    ran = run(bundle, "--stream", "-", "--snapshot", tmp_path, stdin=SESSION)
    assert (ran.code, ran.out) == (2, "")
    assert "it is a directory" in ran.err


def test_a_snapshot_outlives_a_broken_line(bundle: Path, tmp_path: Path) -> None:
    kept = ("--snapshot", tmp_path / "session.bin")
    assert run(bundle, "--stream", "-", *kept, stdin=[*SESSION[:5], "garbage"]).code == 1
    second = run(bundle, "--stream", "-", *kept, stdin=SESSION[5:])
    whole = run(bundle, "--stream", "-", stdin=SESSION)
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
        assert talk.process.stdout
        talk.process.stdout.close()
        talk.send(SESSION[1])
        assert talk.process.wait(60) == 128 + signal.SIGPIPE
        assert talk.process.stderr
        assert talk.process.stderr.read() == ""
    assert kept.exists()


def test_signals_wait_for_the_end_of_an_event() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    done = []

    def interrupted(number: signal.Signals) -> None:
        with Interrupts() as interrupts, interrupts.held():
            signal.raise_signal(number)
            done.append(number)

    with pytest.raises(KeyboardInterrupt):
        interrupted(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        interrupted(signal.SIGTERM)
    assert caught.value.code == 143
    assert done == [signal.SIGINT, signal.SIGTERM]
    with pytest.raises(KeyboardInterrupt), Interrupts():
        signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_get_no_signals() -> None:
    entered = []

    def enter() -> None:
        with Interrupts() as interrupts, interrupts.held():
            entered.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [before]
