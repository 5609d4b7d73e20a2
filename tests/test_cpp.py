"""The example in C++: the answers of Python, of the same bundle; wants a compiler and headers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from small_bundles import ALL, copied, edit, flip

from ifmmin.runtime import Predictor
from ifmmin.runtime.bundle import Bundle

HEADERS = {
    "onnxruntime_c_api.h": "ONNXRUNTIME_INCLUDE names no folder with it; the wheel has none",
    "nlohmann/json.hpp": "apt-get install nlohmann-json3-dev",
    "openssl/sha.h": "apt-get install libssl-dev",
}


@pytest.fixture(scope="module")
def program(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`answer`, built against the library of the wheel."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        pytest.skip("no C++ compiler is installed here: apt-get install g++")
    given = os.environ.get("ONNXRUNTIME_INCLUDE")
    folders = [Path(p) for p in (given, "/usr/include", "/usr/local/include") if p]
    for header, cure in HEADERS.items():
        if not any((folder / header).is_file() for folder in folders):
            pytest.skip(f"no {header}: {cure}")
    folder = tmp_path_factory.mktemp("cpp")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    linked = folder / "libonnxruntime.so.1"  # the name that it gives itself
    linked.symlink_to(library)
    include = [f"-I{given}"] if given else []
    source = root / "examples" / "cpp" / "answer.cpp"
    command = [
        compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", *include, str(source),
        str(linked), "-lcrypto", f"-Wl,-rpath,{folder}", "-o", str(folder / "answer"),
    ]  # fmt: skip
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "answer"


def _ask(program: Path, bundle: Path, *words: str) -> tuple[int, np.ndarray, str]:
    """Exit code, logits (answers, C), and what it said."""
    ran = subprocess.run(
        [program, bundle, *words], capture_output=True, text=True, check=False, timeout=60
    )
    rows = [
        [float(part.split("=")[1]) for part in line.split()] for line in ran.stdout.splitlines()
    ]
    return ran.returncode, np.array(rows), ran.stderr.strip()


@pytest.fixture(scope="module")
def bundle(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(ALL)


def _features(bundle: Path, folder: Path) -> dict[str, np.ndarray]:
    """Random ones of every modality, also as files."""
    rng = np.random.default_rng(3)
    made = {}
    for m, spec in Bundle(bundle).manifest.modalities.items():
        frames = int(rng.integers(11, 19))
        made[m.value] = rng.standard_normal((frames, spec.dim)).astype(np.float32)
        made[m.value].tofile(folder / f"{m}.f32")
    return made


@pytest.mark.parametrize("pattern", ALL)
def test_it_answers_as_python(program: Path, bundle: Path, tmp_path: Path, pattern: str) -> None:
    features = _features(bundle, tmp_path)
    letters = pattern.split("_")
    words = [f"{m}={tmp_path / m}.f32" for m in letters]
    predictor = Predictor(bundle, backend="onnxruntime-cpu")
    code, found, told = _ask(program, bundle, *words)
    assert (code, told) == (0, "")
    wanted = predictor.predict({m: features[m] for m in letters}).logits
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)
    # Two frames at a time: fewer than text can begin with.
    code, found, told = _ask(program, bundle, "--stream", "2", *words)
    assert (code, told) == (0, "")
    stream = predictor.stream()
    starts = range(0, max(len(features[m]) for m in letters), 2)
    assert len(starts) == len(found)
    for row, at in zip(found, starts, strict=True):
        pieces = {m: features[m][at : at + 2] for m in letters}
        stream.push({m: piece for m, piece in pieces.items() if len(piece)})
        np.testing.assert_allclose(row, stream.predict().logits, atol=1e-5)


def test_what_is_wrong_is_one_line(program: Path, bundle: Path, tmp_path: Path) -> None:
    _features(bundle, tmp_path)
    damaged = copied(bundle, tmp_path)
    flip(damaged / "v.latency.fp32.onnx")
    (tmp_path / "odd.f32").write_bytes(b"\0" * 12)
    np.full(70, np.nan, np.float32).tofile(tmp_path / "nan.f32")
    for directory, word, wanted in (
        (damaged, f"v={tmp_path / 'v.f32'}", "v.latency.fp32.onnx is damaged: its sha256 is not"),
        (bundle, f"v={tmp_path / 'odd.f32'}", "modality v: wanted frames of 7 numbers"),
        (bundle, f"v={tmp_path / 'nan.f32'}", "modality v: features must be finite"),
        (bundle, f"q={tmp_path / 'v.f32'}", "the bundle knows no modality q"),
        (bundle, f"v={tmp_path / 'absent'}", "cannot be read"),
        (tmp_path, f"v={tmp_path / 'v.f32'}", "manifest.json cannot be read"),
    ):
        code, _, told = _ask(program, directory, word)
        assert code == 2
        assert wanted in told
        assert told.count("\n") == 0
    edit(damaged, lambda content: content.update(schema=5))
    assert _ask(program, damaged, "v=x")[2].endswith("cannot be read")
    code, _, told = _ask(program, damaged, f"v={tmp_path / 'v.f32'}")
    assert told == "error: the bundle has schema 5, wanted 4"


def test_it_is_short(root: Path) -> None:
    sources = [*(root / "examples" / "cpp").iterdir()]
    assert sum(len(path.read_text().splitlines()) for path in sources) <= 250
