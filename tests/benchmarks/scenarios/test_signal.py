"""Scenario of signals: every part of the way from a wav or a sentence to an answer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_bench import made_bench, rows_of
from small_bundles import copied, edit

from ifmmin.benchmarks.record import OURS
from ifmmin.benchmarks.scenarios import latency as module
from ifmmin.benchmarks.scenarios.latency import PEER, SENTENCE, signal
from ifmmin.runtime import InputError, recognizer
from ifmmin.runtime.frontends.sound import as_sound

pytestmark = pytest.mark.usefixtures("no_probe")
_bench = partial(made_bench, rounds=3)


class Steps:
    """A front-end that counts what it was asked."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self.asked: list[str] = []

    def whole(self, value: Any) -> Any:
        self.asked.append("whole")
        wanted = value == SENTENCE if isinstance(value, str) else as_sound(value).seconds == 4
        return np.ones((9, self._dim), np.float32) if wanted else np.zeros((0, self._dim))

    def speech(self, value: Any) -> None:
        self.asked.append("speech")

    def stream(self, value: Any, *, last: bool = False) -> None:
        assert as_sound(value).seconds == 0.01
        self.asked.append("stream")

    def reset(self) -> None:
        """Nothing is kept."""


@pytest.fixture
def hearing(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose manifest has front-ends for sound and words."""
    made = copied(bundle, tmp_path)

    def change(manifest: dict[str, Any]) -> None:
        for letter in "at":
            about = manifest["modalities"][letter]
            about["frontend"] = {
                "kind": "steps", "version": 1, "dim": about["dim"], "frame_rate": None,
                "features": "made",
            }  # fmt: skip

    edit(made, change)
    opened = lambda spec, read, threads: Steps(spec.dim)  # noqa: E731
    monkeypatch.setattr(recognizer, "open_frontend", opened)

    def absent(spec: Any, read: Any, threads: int) -> None:
        raise InputError("openSMILE is not installed")

    monkeypatch.setattr(module, "open_frontend", absent)
    return made


def test_every_part_and_the_whole_of_each_pattern(hearing: Path) -> None:
    bench = _bench(hearing)
    rows = signal(bench)
    found = {(row.pattern, row.part): row for row in rows_of(rows, OURS)}
    assert set(found) == {
        ("a", "read"), ("a", "detect"), ("a", "features"), ("a", "10 ms of a stream"),
        ("a", "network"), ("a", "all"), ("t", "features"), ("t", "network"), ("t", "all"),
        ("a_t", "network"), ("a_t", "all"),
    }  # fmt: skip
    assert all(len(row.samples) == 3 and min(row.samples) > 0 for row in found.values())
    whole = min(found["a", "all"].samples)
    assert whole > min(found["a", "network"].samples)
    assert list(bench.refused.values()) == ["openSMILE is not installed"]


def test_the_peer_stands_beside_our_features(
    hearing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "open_frontend", lambda spec, read, threads: Steps(130))
    rows = signal(_bench(hearing))
    [peer] = rows_of(rows, PEER)
    [ours] = [row for row in rows_of(rows, OURS) if row.group == peer.group]
    assert (ours.pattern, ours.part) == ("a", "features")


def test_a_bundle_without_front_ends_is_noted(bundle: Path) -> None:
    bench = _bench(bundle)
    assert signal(bench) == []
    assert "has no front-end for sound or words" in next(iter(bench.refused.values()))
