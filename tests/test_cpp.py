"""The example in C++: built where its headers are, it answers and steps streams as Python does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from small_bundles import ALL, copied, flip

from ifmmin.runtime import Predictor

INCLUDES = (
    os.environ.get("ONNXRUNTIME_INCLUDE", ""),
    f"{sys.prefix}/onnxruntime-dev/usr/include/onnxruntime",
    "/usr/include/onnxruntime",
)
LENGTHS = {"a": 9, "v": 14, "t": 7}
DIMS = {"a": 5, "v": 7, "t": 11}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """Built against the library of Python's wheel."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++")
    header = "onnxruntime_c_api.h"
    include = next((one for one in INCLUDES if one and (Path(one) / header).is_file()), None)
    if include is None:
        pytest.skip(f"no {header}: ONNXRUNTIME_INCLUDE names its folder, or libonnxruntime-dev")
    for name in ("nlohmann/json.hpp", "openssl/evp.h"):
        asked = [compiler, "-E", "-xc++", "-"]
        if subprocess.run(
            asked, input=f"#include <{name}>".encode(), capture_output=True
        ).returncode:
            pytest.skip(f"no {name}: apt install nlohmann-json3-dev libssl-dev")
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
    if library is None:
        pytest.skip("the wheel of onnxruntime here has no libonnxruntime.so")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "libonnxruntime.so.1").symlink_to(library)
    subprocess.run(
        [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", root / "examples/cpp/ifmmin.cpp",
         "-I", include, "-L", folder, "-l:libonnxruntime.so.1", "-lcrypto", f"-Wl,-rpath,{folder}",
         "-o", folder / "ifmmin"],
        check=True,
    )  # fmt: skip
    return folder / "ifmmin"


def features(letters: str = "avt", **lengths: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        m: rng.standard_normal((lengths.get(m, n), DIMS[m])).astype(np.float32)
        for m, n in LENGTHS.items()
        if m in letters
    }


def call(program: Path, folder: Path, given: dict[str, np.ndarray], *words: object) -> Any:
    """Its answers; or, where it refuses, its line."""
    for letter, array in given.items():
        array.tofile(folder / f"{letter}.f32")
    files = [f"{letter}={folder / letter}.f32" for letter in given]
    ran = subprocess.run([program, *map(str, words), *files], capture_output=True, text=True)
    if ran.returncode:
        assert (ran.returncode, ran.stdout) == (2, "")
        return ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def same(found: dict[str, Any], wanted: Any) -> None:
    assert (found["label"], found["pattern"]) == (wanted.label, str(wanted.pattern))
    np.testing.assert_allclose(found["logits"], wanted.logits, atol=1e-6)
    np.testing.assert_allclose(found["probabilities"], wanted.probabilities, atol=1e-6)


def test_it_is_short(root: Path) -> None:
    lines = (root / "examples" / "cpp" / "ifmmin.cpp").read_text().splitlines()
    assert len(lines) <= 250
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("pattern", ALL)
def test_it_answers_as_python_does(
    program: Path, bundle: Path, tmp_path: Path, pattern: str
) -> None:
    given = features(pattern)
    (found,) = call(program, tmp_path, given, bundle)
    same(found, Predictor(bundle, backend="onnxruntime-cpu").predict(given))


def test_short_is_padded_and_empty_is_missing(program: Path, bundle: Path, tmp_path: Path) -> None:
    given = features(a=0, v=1, t=2)
    (found,) = call(program, tmp_path, given, bundle)
    same(found, Predictor(bundle, backend="onnxruntime-cpu").predict(given))
    assert found["pattern"] == "v_t"


@pytest.mark.parametrize("chunk", [1, 4])
def test_it_steps_a_stream(program: Path, bundle: Path, tmp_path: Path, chunk: int) -> None:
    given = features()
    found = call(program, tmp_path, given, bundle, "--chunk", chunk)
    stream = Predictor(bundle, backend="onnxruntime-cpu").stream()
    for begin, answer in zip(range(0, max(LENGTHS.values()), chunk), found, strict=True):
        stream.push({m: x[begin : begin + chunk] for m, x in given.items() if begin < len(x)})
        same(answer, stream.predict())


def test_it_refuses_what_is_wrong(program: Path, bundle: Path, tmp_path: Path) -> None:
    given = features("a")
    own = copied(bundle, tmp_path)
    flip(own / "a.latency.fp32.onnx")
    assert "a.latency.fp32.onnx is not what the manifest says" in call(
        program, tmp_path, given, own
    )
    assert "manifest.json cannot be read" in call(program, tmp_path, given, tmp_path)
    given["a"][3, 2] = np.nan
    assert "not finite" in call(program, tmp_path, given, bundle)
    assert "rows of 5 float32" in call(program, tmp_path, {"a": given["a"][:, :4]}, bundle)
    assert "wanted MODALITY=FILE" in call(program, tmp_path, {}, bundle, "b=b.f32")
    assert "usage" in call(program, tmp_path, {}, bundle)


@pytest.fixture(scope="module")
def bundle(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(ALL, shapes=("latency", "stream"))
