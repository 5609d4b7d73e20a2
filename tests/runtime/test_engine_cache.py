"""What the cache gives back is what was kept, for that key, or nothing."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifmmin.runtime.backends.engine_cache import (
    DeviceKey,
    EngineCache,
    EngineKey,
    default_directory,
)
from ifmmin.runtime.errors import OutputError
from ifmmin.runtime.manifest import ProfileSpec

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
    "graph": {"graph_sha256": "ac" * 32},
    "precision": {"precision": "fp32"},
    "profile": {"profile": {"a": msgspec.structs.replace(SIZES, maximum=(400, 5))}},
    "input": {"profile": {"v": SIZES}},
    "tf32": {"tf32": True},
    "settings of the builder": {"build": 0},
}


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
def test_a_file_that_was_cut_or_changed_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    cache = EngineCache(tmp_path_factory.getbasetemp() / "spoilt")
    whole = cache.keep(KEY, CONTENT).read_bytes()
    if data.draw(st.booleans()):
        spoilt = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        bit = 1 << data.draw(st.integers(0, 7))
        spoilt = whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
    cache.path(KEY).write_bytes(spoilt)
    kept = cache.load(KEY)
    assert kept.content is None
    assert str(cache.path(KEY)) in kept.refusal
    assert "\n" not in kept.refusal


def test_more_at_the_end_is_refused(cache: EngineCache) -> None:
    path = cache.keep(KEY, CONTENT)
    path.write_bytes(path.read_bytes() + b"\0")
    assert "its hash does not fit" in cache.load(KEY).refusal


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = EngineCache(tmp_path / "file")
    with pytest.raises(OutputError, match="choose a place that can be written"):
        cache.keep(KEY, CONTENT)
    assert "cannot be read (Not a directory)" in cache.load(KEY).refusal
    cache = EngineCache(tmp_path)
    cache.path(KEY).mkdir()
    assert "cannot be read (Is a directory)" in cache.load(KEY).refusal


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EngineCache().directory == tmp_path / "ifmmin" / "engines"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_directory() == tmp_path / ".cache" / "ifmmin" / "engines"


def _write(directory: Path, value: int, times: int) -> None:
    for _ in range(times):
        EngineCache(directory).keep(KEY, bytes([value]) * 100_000)


def test_writers_at_the_same_time(tmp_path: Path) -> None:
    """Every reader meets one whole engine or another, never a mixture and never none."""
    context = multiprocessing.get_context("spawn")
    cache = EngineCache(tmp_path)
    cache.keep(KEY, bytes(100_000))
    writers = [context.Process(target=_write, args=(tmp_path, n, 40)) for n in (1, 2)]
    for writer in writers:
        writer.start()
    seen: set[int] = set()
    while any(writer.is_alive() for writer in writers):
        content = cache.load(KEY).content
        assert content is not None
        assert len(content) == 100_000
        assert len(set(content)) == 1
        seen.add(content[0])
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(seen) > 1, "nothing was written meanwhile"
    assert [path.suffix for path in tmp_path.iterdir()] == [".engine"]
