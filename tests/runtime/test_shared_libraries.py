"""What a library lacks is found without loading it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small_elf import real_library, write_library

from ifmmin.runtime.backends.cuda import missing_libraries

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at libraries of Linux")


def test_names_come_in_order_and_what_is_here_is_left_out(tmp_path: Path) -> None:
    path = write_library(tmp_path / "lib.so", ["libnone.so.9", "libc.so.6", "libother.so.1"])
    assert missing_libraries(path) == ["libnone.so.9", "libother.so.1"]


@pytest.mark.parametrize("runpath", ["$ORIGIN/near", "/nowhere:${ORIGIN}/near"])
def test_its_own_path_is_searched(tmp_path: Path, runpath: str) -> None:
    path = write_library(tmp_path / "lib.so", ["libnear.so.1"], runpath)
    assert missing_libraries(path) == ["libnear.so.1"]
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "libnear.so.1").symlink_to(real_library())
    assert missing_libraries(path) == []


def test_other_places_are_searched(tmp_path: Path) -> None:
    path = write_library(tmp_path / "lib.so", ["libnear.so.1"])
    (tmp_path / "libnear.so.1").symlink_to(real_library())
    assert missing_libraries(path, [tmp_path]) == []


def test_one_that_does_not_load_counts_as_missing(tmp_path: Path) -> None:
    path = write_library(tmp_path / "lib.so", ["libnear.so.1"], "$ORIGIN")
    (tmp_path / "libnear.so.1").write_bytes(b"cut off")
    assert missing_libraries(path) == ["libnear.so.1"]


def test_a_real_library_lacks_nothing() -> None:
    assert missing_libraries(real_library()) == []


@pytest.mark.parametrize("content", [None, b"", b"\x7fELF\x01", b"\x7fELF\x02\x01", b"MZ" * 99])
def test_what_is_no_library_tells_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "lib.so").write_bytes(content)
    assert missing_libraries(tmp_path / "lib.so") == []


def test_a_library_that_is_cut_off_tells_nothing(tmp_path: Path) -> None:
    path = write_library(tmp_path / "lib.so", ["libnone.so.9"])
    whole = path.read_bytes()
    for length in range(64, len(whole), 40):
        path.write_bytes(whole[:length])
        assert set(missing_libraries(path)) <= {"libnone.so.9", "libnone.so.", "libnone", ""}
