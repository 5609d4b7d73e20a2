"""The cache of engines gives back what was kept, or nothing."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifmmin.runtime.backends.engine_cache import LIMIT_BYTES, DeviceKey, EngineCache, EngineKey
from ifmmin.runtime.bundle import ProfileSpec
from ifmmin.runtime.errors import OutputError

DEVICE = DeviceKey(flavour="tensorrt", version="10.3.0", gpu="NVIDIA Orin/Nano (8 GB)", sm="SM87")
SIZES = ProfileSpec(minimum=(1, 5), optimum=(25, 5), maximum=(200, 5))
KEY = EngineKey(
    device=DEVICE, graph_sha256="ab" * 32, precision="fp16", profile={"a": SIZES}, tf32=False
)
CONTENT = bytes(range(256)) * 3
OTHERS: dict[str, dict[str, Any]] = {
    "flavour": {"device": msgspec.structs.replace(DEVICE, flavour="tensorrt-rtx")},
    "version": {"device": msgspec.structs.replace(DEVICE, version="10.13.3")},
    "gpu": {"device": msgspec.structs.replace(DEVICE, gpu="NVIDIA Orin-Nano (8 GB)")},
    "sm": {"device": msgspec.structs.replace(DEVICE, sm="SM86")},
    "graph": {"graph_sha256": "ac" * 32}, "precision": {"precision": "fp32"},
    "profile": {"profile": {"a": msgspec.structs.replace(SIZES, maximum=(400, 5))}},
    "input": {"profile": {"v": SIZES}}, "tf32": {"tf32": True},
    "settings of the builder": {"build": 0},
}  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "deep" / "engines")


def test_what_was_kept_comes_back(cache: EngineCache) -> None:
    assert cache.load(KEY).content is None
    assert cache.load(KEY).refusal == ""
    path = cache.keep(KEY, CONTENT)
    assert path.name.startswith("tensorrt-10.3.0-NVIDIA-Orin-Nano-8-GB-")
    assert cache.load(KEY).content == CONTENT
    cache.keep(KEY, b"")
    assert cache.load(KEY).content == b""
    assert [p.name for p in cache.directory.iterdir()] == [path.name]


@pytest.mark.parametrize("other", OTHERS)
def test_another_key_finds_nothing_and_refuses_the_file(cache: EngineCache, other: str) -> None:
    key = msgspec.structs.replace(KEY, **OTHERS[other])
    path = cache.keep(KEY, CONTENT)
    assert cache.load(key).content is None
    path.rename(cache.path(key))
    assert cache.load(key).content is None
    assert "is of another graph, device, version or profile" in cache.load(key).refusal


def test_timing_caches_are_of_the_device(cache: EngineCache) -> None:
    cache.keep(DEVICE, b"timing")
    cache.keep(KEY, CONTENT)
    assert cache.load(DEVICE).content == b"timing"
    assert len(list(cache.directory.iterdir())) == 2
    cache.path(KEY).replace(cache.path(DEVICE))
    assert "is of another graph" in cache.load(DEVICE).refusal


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    cache = EngineCache(tmp_path_factory.getbasetemp() / "damaged")
    whole = cache.keep(KEY, CONTENT).read_bytes()
    kind = data.draw(st.sampled_from(["cut", "longer", "changed"]))
    if kind == "cut":
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif kind == "longer":
        damaged = whole + b"\0"
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        bit = 1 << data.draw(st.integers(0, 7))
        damaged = whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
    cache.path(KEY).write_bytes(damaged)
    kept = cache.load(KEY)
    assert kept.content is None
    assert kind != "longer" or "its hash does not fit" in kept.refusal
    assert str(cache.path(KEY)) in kept.refusal
    assert "\n" not in kept.refusal


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = EngineCache(tmp_path / "file")
    with pytest.raises(OutputError, match="choose a place that can be written"):
        cache.keep(KEY, CONTENT)
    assert "cannot be read (Not a directory)" in cache.load(KEY).refusal
    cache = EngineCache(tmp_path)
    cache.path(KEY).mkdir()
    assert "cannot be read (Is a directory)" in cache.load(KEY).refusal


def _write(directory: Path, value: int) -> None:
    for _ in range(40):
        EngineCache(directory).keep(KEY, bytes([value]) * 100_000)


def _running(work: Any, *starts: tuple[Any, ...]) -> Iterator[None]:
    """Again and again while processes are at work, none of which may fail."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=start) for start in starts]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        yield
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_writers_at_the_same_time(tmp_path: Path) -> None:
    """Every reader meets one whole engine or another, never a mixture and never none."""
    cache, seen = EngineCache(tmp_path), set()
    cache.keep(KEY, bytes(100_000))
    for _ in _running(_write, (tmp_path, 1), (tmp_path, 2)):
        content = cache.load(KEY).content
        assert content is not None
        assert len(content) == 100_000
        assert len(set(content)) == 1
        seen.add(content[0])
    assert len(seen) > 1, "nothing was written meanwhile"
    assert [path.suffix for path in tmp_path.iterdir()] == [".engine"]


LARGE = bytes(100_000)
FEW = 350_000
"""Room for three large engines."""


def _key(number: int) -> EngineKey:
    return msgspec.structs.replace(KEY, graph_sha256=f"{number:064}")


def _keep(folder: Path, *numbers: int) -> None:
    """Keep large engines, of which the first is the one unused for longest."""
    for number in numbers:
        path = EngineCache(folder).keep(_key(number), LARGE)
        os.utime(path, (1000 + number, 1000 + number))


def _left(folder: Path) -> list[int]:
    return [number for number in range(10) if EngineCache(folder).path(_key(number)).exists()]


def test_those_unused_for_longest_go_first(tmp_path: Path) -> None:
    _keep(tmp_path, 0, 1, 2, 3)
    assert EngineCache(tmp_path).load(_key(0)).content == LARGE  # used just now
    EngineCache(tmp_path, limit=FEW).keep(_key(4), LARGE)
    assert _left(tmp_path) == [0, 3, 4]


def test_nothing_goes_below_the_limit_and_what_was_kept_just_now_stays(tmp_path: Path) -> None:
    _keep(tmp_path, *range(8))
    EngineCache(tmp_path).keep(_key(8), LARGE)
    assert _left(tmp_path) == list(range(9))
    assert LIMIT_BYTES > 1 << 30
    cache = EngineCache(tmp_path, limit=1)
    cache.keep(_key(9), LARGE)
    assert _left(tmp_path) == [9]
    assert cache.load(_key(9)).content == LARGE


def test_engines_of_other_versions_and_timing_caches_go_too(tmp_path: Path) -> None:
    other = msgspec.structs.replace(DEVICE, version="10.2.0")
    for key in (msgspec.structs.replace(_key(0), device=other), other):
        os.utime(EngineCache(tmp_path).keep(key, LARGE), (1000, 1000))
    _keep(tmp_path, 1, 2)
    EngineCache(tmp_path, limit=FEW).keep(_key(3), LARGE)
    assert _left(tmp_path) == [1, 2, 3]
    assert len(list(tmp_path.iterdir())) == 3


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    names = {"model.engine", "notes.txt", ".hidden.part"}
    for name in names:
        (tmp_path / name).write_bytes(LARGE)
        os.utime(tmp_path / name, (1, 1))
    EngineCache(tmp_path, limit=1).keep(_key(0), LARGE)
    assert {path.name for path in tmp_path.iterdir()} > names


def test_parts_that_nobody_writes_to_any_more_go(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    name = cache.path(KEY).name
    abandoned, fresh = (tmp_path / f".{name}.{tail}.part" for tail in ("ab12_x9z", "cd34_y8w"))
    for part in (abandoned, fresh):
        part.write_bytes(b"half")
    a_day_ago = time.time() - 86_400
    os.utime(abandoned, (a_day_ago, a_day_ago))
    cache.keep(KEY, CONTENT)
    assert not abandoned.exists()
    assert fresh.exists()


@pytest.mark.parametrize("moment", ["read_bytes", "utime"])
def test_a_vanishing_file(cache: EngineCache, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Between being looked for and being read, or before its use is noted."""
    path = cache.keep(KEY, CONTENT)
    owner: Any = Path if moment == "read_bytes" else os
    real = getattr(owner, moment)

    def vanish(*arguments: Any) -> Any:
        path.unlink()
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, moment, vanish)
        kept = cache.load(KEY)
    assert (kept.content, kept.refusal) == (None if moment == "read_bytes" else CONTENT, "")
    assert cache.load(KEY).content is None
    cache.keep(KEY, CONTENT)
    assert cache.load(KEY).content == CONTENT


def test_a_file_removed_by_others(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as gone, and those used later stay."""
    _keep(cache.directory, 0, 1, 2, 3)
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".engine":
            real(path)
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    EngineCache(cache.directory, limit=FEW + len(LARGE)).keep(_key(4), LARGE)
    assert _left(cache.directory) == [1, 2, 3, 4]


def _use(folder: Path, start: int) -> None:
    for turn in range(30):
        cache, key = EngineCache(folder, limit=FEW), _key((start + turn) % 6)
        if cache.load(key).content is None:
            cache.keep(key, LARGE)


def test_removers_at_the_same_time(tmp_path: Path) -> None:
    """A reader meets a whole engine or none, and nothing fails."""
    found = set()
    for _ in _running(_use, (tmp_path, 0), (tmp_path, 3)):
        for number in range(6):
            kept = EngineCache(tmp_path).load(_key(number))
            assert kept.refusal == ""
            found.add(kept.content)
    assert found == {LARGE, None}
    EngineCache(tmp_path, limit=FEW).keep(_key(0), LARGE)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= FEW
