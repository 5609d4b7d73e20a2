"""The cache of engines stays within its limit, and what is in use stays whatever the limit."""

from __future__ import annotations

import fcntl
import gc
import multiprocessing
import os
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import msgspec
import pytest

from ifmmin.runtime.backends import engine_uses
from ifmmin.runtime.backends.engine_cache import LIMIT_BYTES, DeviceKey, EngineCache, EngineKey
from ifmmin.runtime.manifest import ProfileSpec

DEVICE = DeviceKey(flavour="tensorrt", version="10.3.0", gpu="Orin", sm="SM87")
SIZES = ProfileSpec(minimum=(1, 5), optimum=(25, 5), maximum=(200, 5))
CONTENT = bytes(100_000)
FEW = 350_000
"""Room for three engines."""


def key(number: int) -> EngineKey:
    digest = f"{number:064}"
    return EngineKey(
        device=DEVICE, graph_sha256=digest, precision="fp32", profile={"a": SIZES}, tf32=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "engines"


def keep(folder: Path, *numbers: int) -> None:
    """Keep engines, of which the first is the one unused for longest; nobody has them in use."""
    cache = EngineCache(folder)
    for number in numbers:
        path = cache.keep(key(number), CONTENT)
        os.utime(path, (1000 + number, 1000 + number))
    del cache
    gc.collect()


def left(folder: Path, numbers: int = 10) -> list[int]:
    cache = EngineCache(folder)
    return [number for number in range(numbers) if cache.path(key(number)).exists()]


def descriptors() -> int:
    """Open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_those_unused_for_longest_go_first(folder: Path) -> None:
    keep(folder, 0, 1, 2, 3)
    assert EngineCache(folder).load(key(0)).content == CONTENT  # used just now, by who is gone
    gc.collect()
    EngineCache(folder, limit=FEW).keep(key(4), CONTENT)
    assert left(folder) == [0, 3, 4]


def test_nothing_goes_below_the_limit(folder: Path) -> None:
    keep(folder, *range(9))
    EngineCache(folder).keep(key(9), CONTENT)
    assert left(folder) == list(range(10))
    assert LIMIT_BYTES > 1 << 30


def test_engines_of_other_versions_and_timing_caches_go_too(folder: Path) -> None:
    other = msgspec.structs.replace(DEVICE, version="10.2.0")
    cache = EngineCache(folder)
    olds = [
        cache.keep(msgspec.structs.replace(key(0), device=other), CONTENT),
        cache.keep(other, CONTENT),
    ]
    del cache
    gc.collect()
    for old in olds:
        os.utime(old, (1000, 1000))
    keep(folder, 1, 2)
    EngineCache(folder, limit=FEW).keep(key(3), CONTENT)
    assert not any(old.exists() for old in olds)
    assert left(folder) == [1, 2, 3]


@pytest.mark.parametrize("how", ["load", "keep"])
def test_what_is_in_use_stays(folder: Path, how: str) -> None:
    keep(folder, 0, 1)
    user = EngineCache(folder)
    if how == "load":
        assert user.load(key(0)).content is not None
    else:
        user.keep(key(0), CONTENT)
    os.utime(user.path(key(0)), (1, 1))  # however long ago
    EngineCache(folder, limit=1).keep(key(2), CONTENT)
    assert left(folder) == [0, 2], "that of the user, and the one that was kept just now"
    del user
    gc.collect()
    EngineCache(folder, limit=1).keep(key(3), CONTENT)
    assert left(folder) == [3]


def test_an_engine_that_was_replaced_is_not_held_twice(folder: Path) -> None:
    user = EngineCache(folder)
    before = descriptors()
    for _ in range(20):
        user.keep(key(0), CONTENT)
        assert user.load(key(0)).content == CONTENT
    assert descriptors() == before + 1
    EngineCache(folder, limit=1).keep(key(1), CONTENT)
    assert left(folder) == [0, 1]
    del user
    gc.collect()
    assert descriptors() <= before


def test_what_is_not_ours_stays(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    named = EngineCache(folder).path(key(0))
    named.write_bytes(b"of another program" * 1000)
    for name in ("model.engine", "notes.txt", ".hidden.part"):
        (folder / name).write_bytes(CONTENT)
        os.utime(folder / name, (1, 1))
    (tmp_path / "elsewhere").write_bytes(EngineCache(folder).keep(key(2), CONTENT).read_bytes())
    linked = EngineCache(folder).path(key(1))
    linked.symlink_to(tmp_path / "elsewhere")
    gc.collect()
    EngineCache(folder, limit=1).keep(key(3), CONTENT)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"model.engine", "notes.txt", ".hidden.part", named.name, linked.name}
    assert left(folder) == [0, 1, 3]
    assert (tmp_path / "elsewhere").exists()


def test_parts_that_nobody_writes_to_any_more_go(folder: Path) -> None:
    keep(folder, 0)
    name = EngineCache(folder).path(key(1)).name
    abandoned, fresh = (folder / f".{name}.{tail}.part" for tail in ("ab12_x9z", "cd34_y8w"))
    for part in (abandoned, fresh):
        part.write_bytes(b"half")
    long_ago = time.time() - engine_uses._ABANDONED - 1
    os.utime(abandoned, (long_ago, long_ago))
    keep(folder, 2)
    assert not abandoned.exists()
    assert fresh.exists()


def test_without_locks_nothing_is_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems; what was kept still comes back."""

    def refuse(descriptor: int, how: int) -> None:
        raise OSError("no locks available")

    keep(folder, 0, 1)
    monkeypatch.setattr(fcntl, "flock", refuse)
    cache = EngineCache(folder, limit=1)
    cache.keep(key(2), CONTENT)
    assert left(folder) == [0, 1, 2]
    assert cache.load(key(0)).content == CONTENT


def _use(folder: Path, ready: Event, done: Event) -> None:
    cache = EngineCache(folder)
    assert cache.load(key(0)).content == CONTENT
    ready.set()
    done.wait(60)
    os._exit(9)  # as when it is killed: nothing is given back in order


def test_what_another_process_has_in_use_stays_until_it_dies(folder: Path) -> None:
    keep(folder, 0)
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    user = context.Process(target=_use, args=(folder, ready, done))
    user.start()
    assert ready.wait(60)
    os.utime(EngineCache(folder).path(key(0)), (1, 1))
    EngineCache(folder, limit=1).keep(key(1), CONTENT)
    assert left(folder) == [0, 1]
    done.set()
    user.join()
    gc.collect()
    EngineCache(folder, limit=1).keep(key(2), CONTENT)
    assert left(folder) == [2]


def _churn(folder: Path, start: int) -> None:
    for turn in range(30):
        EngineCache(folder, limit=FEW).keep(key((start + turn) % 6), CONTENT)


def test_removers_at_the_same_time(folder: Path) -> None:
    """A reader meets a whole engine or none, and nothing fails."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_churn, args=(folder, start)) for start in (0, 3)]
    for writer in writers:
        writer.start()
    found = set()
    while any(writer.is_alive() for writer in writers):
        for number in range(6):
            kept = EngineCache(folder).load(key(number))
            assert kept.refusal == ""
            found.add(kept.content)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert found == {CONTENT, None}
    EngineCache(folder, limit=FEW).keep(key(0), CONTENT)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= FEW
