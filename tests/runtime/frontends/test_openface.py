"""OpenFace's CSV: what its columns become, whole and as the file grows, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ifmmin.runtime.errors import BundleError, InputError
from ifmmin.runtime.frontends.base import FrontEnd, open_frontend
from ifmmin.runtime.frontends.openface import COLUMNS, specify
from ifmmin.runtime.frontends.spec import FileEntry, FrontEndSpec

LEADING = ("frame", "face_id", "timestamp", "confidence", "success")


def _no_file(entry: FileEntry) -> bytes:
    raise AssertionError(f"it has no {entry.file}")


def _open(per: str) -> FrontEnd:
    return open_frontend(specify(per), _no_file)


def _units(frame: int, face: int = 0) -> NDArray[np.float64]:
    """Two decimals, as OpenFace writes them."""
    return np.round(np.random.default_rng([frame, face]).uniform(0, 5, len(COLUMNS)), 2)


def _csv(rows: Sequence[tuple[int, int, int]], names: Sequence[str] = COLUMNS) -> bytes:
    """Rows of (frame, face, success) with the action units of `names`, in that order."""
    lines = [", ".join([*LEADING, *names])]
    for frame, face, success in rows:
        units = dict(zip(COLUMNS, _units(frame, face), strict=True))
        leading = [f"{frame}", f"{face}", f"{frame / 30:.3f}", "0.98", f"{success}"]
        lines.append(", ".join(leading + [f"{units[name]:.2f}" for name in names]))
    return ("\n".join(lines) + "\n").encode()


CONTENT = _csv([(1, 0, 1), (2, 0, 0), (3, 0, 1), (4, 0, 1)])
FOUND = np.stack([_units(frame) for frame in (1, 3, 4)])


def test_frames_are_those_in_which_the_face_was_found(tmp_path: Path) -> None:
    (tmp_path / "clip.csv").write_bytes(CONTENT)
    frames = _open("frame").whole(tmp_path / "clip.csv")
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames, FOUND.astype(np.float32))
    np.testing.assert_array_equal(_open("frame").whole(str(tmp_path / "clip.csv")), frames)


def test_a_clip_is_their_mean() -> None:
    frame = _open("clip").whole(CONTENT)
    np.testing.assert_allclose(frame, FOUND.mean(axis=0, keepdims=True), rtol=1e-6)


def test_columns_are_found_by_name_however_they_are_written() -> None:
    """In another order, with others between, without spaces, with the ends of lines of Windows."""
    other = _csv([(1, 0, 1), (3, 0, 1), (4, 0, 1)], [*COLUMNS[::-1]])
    for content in (
        other,
        other.replace(b" ", b""),
        b"\xef\xbb\xbf" + other.replace(b"\n", b"\r\n"),
    ):
        np.testing.assert_array_equal(_open("frame").whole(content), FOUND.astype(np.float32))


def test_without_a_face_there_is_nothing() -> None:
    for per in ("clip", "frame"):
        for content in (_csv([(1, 0, 0), (2, 0, 0)]), _csv([])):
            assert _open(per).whole(content).shape == (0, 35)


def test_of_several_faces_the_first_counts() -> None:
    content = _csv([(1, 1, 0), (1, 2, 1), (1, 0, 1), (2, 0, 1), (2, 2, 1), (2, 1, 1)])
    expected = np.stack([_units(1, 2), _units(2, 2)]).astype(np.float32)
    np.testing.assert_array_equal(_open("frame").whole(content), expected)


@pytest.mark.parametrize("text", ["nan", "-nan(ind)", "inf", "1e300"])
def test_a_frame_with_a_number_that_is_not_finite_is_left_out(text: str) -> None:
    content = CONTENT.replace(f"{FOUND[1, 4]:.2f}".encode(), text.encode(), 1)
    assert content != CONTENT
    frames = _open("frame").whole(content)
    np.testing.assert_array_equal(frames, FOUND[[0, 2]].astype(np.float32))


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, len(CONTENT)), max_size=6), saved=st.integers(0, 6))
@pytest.mark.parametrize("per", ["clip", "frame"])
def test_pieces_give_what_the_whole_does(per: str, cuts: list[int], saved: int) -> None:
    """Wherever they are cut, and carried on by another front-end from a state."""
    frontend, made = _open(per), []
    for index, (start, end) in enumerate(pairwise([0, *sorted(cuts), len(CONTENT)])):
        if index == saved:
            state, other = frontend.state(), copy.copy(frontend)
            other.reset(state)
            frontend.reset()
            frontend = other
        made.append(frontend.stream(CONTENT[start:end], last=index == len(cuts)))
    np.testing.assert_array_equal(np.concatenate(made), _open(per).whole(CONTENT))


def test_a_file_is_read_as_it_grows(tmp_path: Path) -> None:
    path, frontend, made = tmp_path / "clip.csv", _open("frame"), []
    for end in (0, 10, 700, 701, len(CONTENT) - 5, len(CONTENT)):
        path.write_bytes(CONTENT[:end])
        made.append(frontend.stream(path, last=end == len(CONTENT)))
    assert [len(frames) for frames in made] == [0, 0, 1, 0, 1, 1]
    np.testing.assert_array_equal(np.concatenate(made), FOUND.astype(np.float32))
    np.testing.assert_array_equal(frontend.stream(path, last=True), FOUND.astype(np.float32))

    frontend.stream(path)
    path.write_bytes(CONTENT[:700])
    with pytest.raises(InputError, match="shorter than what was read of it"):
        frontend.stream(path)


def test_a_mistake_leaves_the_stream_as_it_was() -> None:
    frontend = _open("clip")
    frontend.stream(CONTENT[:700])
    with pytest.raises(InputError):
        frontend.stream(CONTENT[700:] + b"1, 2\n")
    frame = frontend.stream(CONTENT[700:], last=True)
    np.testing.assert_array_equal(frame, _open("clip").whole(CONTENT))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the CSV has no column success, AU01_r, AU02_r and 33 more; wanted"),
        (b"a,b\n1,2\n", "has no column success"),
        (CONTENT.decode().encode("utf-16"), "has no column success"),
        (_csv([], [c for c in COLUMNS if c != "AU45_c"]), "no column AU45_c; wanted"),
        (CONTENT[:-40], "line 5: got 34 fields, wanted 40"),
        (b"\0" * 100_000, "65,536 bytes without the end of a line"),
        (CONTENT.replace(b", 0.98, 1", b", 0.98, \x1b[2J", 1), r"got '\\x1b\[2J', wanted a number"),
        (CONTENT.replace(b"3, 0, 0.1", b"3, -1, 0.1"), "line 4: got the face_id -1"),
    ],
)  # fmt: skip
def test_what_is_not_openface_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        _open("frame").whole(content)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("path", ["nowhere.csv", ".", "a\0b", "x" * 5000, None, 3])
def test_what_cannot_be_read_is_told(path: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read|is a directory"):
        _open("clip").whole(tmp_path / path if isinstance(path, str) else path)


@pytest.mark.parametrize(
    "change",
    [
        {"sum": np.zeros(34)},
        {"sum": np.full(35, np.nan)},
        {"numbers": np.array([0, -1, 0, 0])},
        {"header": np.frombuffer(b"frame, success", np.uint8)},
        {"more": np.zeros(1)},
    ],
)
def test_a_state_of_another_is_refused_and_nothing_changed(change: dict[str, Any]) -> None:
    frontend = _open("clip")
    frontend.stream(CONTENT[:700])
    before = frontend.state()
    with pytest.raises(InputError):
        frontend.reset(before | change)
    after = frontend.state()
    assert all(np.array_equal(after[name], before[name]) for name in before)
    frontend.reset()
    assert frontend.whole(CONTENT).shape == (1, 35)


def test_a_specification_of_another_is_refused() -> None:
    with pytest.raises(InputError, match="per: got 'second', wanted clip or frame"):
        specify("second")
    assert specify("clip").identity != specify("frame").identity
    other = FrontEndSpec(kind="openface", version=2, dim=35, frame_rate=None, features="")
    with pytest.raises(BundleError, match="openface version 1 alone"):
        open_frontend(other, _no_file)
    assert _open("clip").describe() == specify()
