"""Options of `ifmmin-run --stream` that mean nothing: one clear line, and nothing is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_command import run
from small_bundles import ALL, small_bundle
from stream_process import event, frames


@pytest.fixture(scope="module")
def bundle(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(make_network, tmp_path_factory, ALL, shapes=("latency", "stream"))


MISTAKES: list[tuple[tuple[object, ...], str]] = [
    (("--stream", "-", "--window", -1), "window: got -1.0, wanted a number of seconds above 0"),
    (("--stream", "-", "--window", "nan"), "window: got nan"),
    (("--stream", "-", "--hop", 1), "got a hop without a window"),
    (("--stream", "-", "--window", 1, "--hop", 0.3), "not a whole number of hops"),
    (("--stream", "-", "--late", "never"), "late: got 'never', wanted refuse, skip, append"),
    (("--stream", "-", "--stale-after", "v"), "--stale-after: got 'v', wanted for example v=0.5"),
    (("--stream", "-", "--stale-after", "x=1"), "--stale-after: got 'x=1'"),
    (("--stream", "-", "--stale-after", "v=0"), "stale_after of v: got 0.0"),
    (("--stream", "-", "--margin", 2), "smoothing margin: got 2.0"),
    (("--stream", "-", "--patience", 0), "smoothing patience: got 0"),
    (("--stream", "-", "--smooth", -1), "smoothing half_life: got -1.0"),
    (("--stream", "-", "--replay", "slow"), "--replay: got 'slow', wanted real or fast"),
    (("--stream", "-", "--replay", "fast", "--clock"), "choose one"),
    (("--stream", "-", "--tick", 1), "--tick needs --clock"),
    (("--stream", "-", "--tick", 0, "--clock"), "--tick: got 0.0"),
    (("--stream", "-", "--live"), "--live draws on a terminal, and standard output is none"),
    (("--stream", "-", "--preload"), "--preload does not go with --stream"),
    (("--stream", "-", "--explain"), "--explain does not go with --stream"),
    (("--stream", "-", "--pattern", "a"), "leave a modality out with a drop event"),
    (("--stream", "-", "--format", "csv"), "--format csv does not go with --stream"),
    (("clip.npz", "--stream", "-"), "an input does not go with --stream"),
    (("--stream", "none.jsonl"), "no session at none.jsonl"),
    (("--stream", "-", "--save", "x.csv"), "name it .jsonl"),
    (("--stream", "-", "--top-k", 9), "the bundle has 4 classes"),
    (("--stream", "-"), "got no event; stdin held no line"),
    (("-", "--live"), "--live is for streams; give --stream"),
    (("-", "--window", 0), "--window is for streams; give --stream"),
]


@pytest.mark.parametrize(("arguments", "wanted"), MISTAKES, ids=lambda value: str(value)[:60])
def test_mistakes_are_one_line(bundle: Path, arguments: tuple[object, ...], wanted: str) -> None:
    ran = run(bundle, *arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert ran.err.startswith("error: ")
    assert wanted in ran.err


def test_a_bundle_without_streams(
    make_network: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    without = small_bundle(make_network, tmp_path_factory, ("a",), shapes=("latency",))
    ran = run(without, "--stream", "-", stdin=[event("push", a=frames("a", 4))])
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "export it" in ran.err
