"""`ifmmin-run` with utterances by name from HDF5 in the released layout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from run_command import arrays, npz, run, run_bundle

from ifmmin.runtime.inputs_released import read_names, released_source
from ifmmin.runtime.manifest import MissingSpec, ModalitySpec
from ifmmin.runtime.modality import Modality

JSON = ("--format", "json")


@pytest.fixture(scope="module")
def bundle(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_bundle(make_network, tmp_path_factory)


def _write(path: Path, content: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in content.items():
            file[name] = array


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Clips `one` (a, t), `two` (a; an empty v), `odd` (a of another width)."""
    root = tmp_path / "features"
    a = {name: arrays("a", seed)["a"] for seed, name in enumerate(("one", "two"))}
    _write(root / "A" / "comparE.h5", a | {"odd": np.zeros((3, 4))})
    _write(root / "A" / "comparE_mean_std.h5", {"1/mean": np.zeros(5), "1/std": np.ones(5)})
    _write(root / "V" / "face.h5", {"other": np.ones((2, 7)), "two": np.zeros((0, 7))})
    _write(root / "L" / "words.h5", {"one": arrays("t")["t"].astype(np.float16)})
    return root


def test_names_are_answered_in_their_order(bundle: Path, features: Path, tmp_path: Path) -> None:
    two = npz(tmp_path / "file.npz", **arrays("a", 1))
    ran = run(bundle, two, "--features", features, "--ids", "two, one", *JSON)
    assert ran.code == 0
    assert [a["input"] for a in ran.answers] == ["file", "two", "one"]
    assert [a["pattern"] for a in ran.answers] == ["a", "a", "a_t"]
    assert ran.answers[1]["logits"] == ran.answers[0]["logits"]
    assert ran.answers[1]["absent"]["v"] == "empty"


def test_an_unknown_name_stops_no_other(bundle: Path, features: Path) -> None:
    ran = run(bundle, "--features", features, "--ids", "none,one,odd,/", *JSON)
    assert ran.code == 1
    assert ["error" in a for a in ran.answers] == [True, False, True, True]
    first, second, third, _ = ran.err.splitlines()
    assert "utterance none: in none of" in first
    assert "utterance odd: modality a (acoustic): got shape (3, 4), wanted (frames, 5)" in second
    assert "utterance /: " in third
    ran = run(bundle, "--features", features, "--ids", "none")
    assert (ran.code, ran.err.count("\n")) == (2, 1)


@pytest.mark.parametrize("kind", ["lines", "bytes", "column"])
def test_names_from_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("names.txt" if kind == "lines" else "tst_int2name.npy")
    if kind == "lines":
        path.write_text("one\n\n  two \n")
    elif kind == "bytes":
        np.save(path, np.array([[b"one"], [b"two"]]))
    else:
        np.save(path, np.array(["one", "two"]))
    assert read_names(str(path)) == ["one", "two"]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--features", "{root}"), "--features needs --ids"),
        (("--ids", "one"), "choose from --features"),
        (("--features", "{root}", "--ids", " , "), "names no utterance"),
        (("--features", "{root}/A", "--ids", "x"), "holds none of A/*.h5, V/*.h5, L/*.h5"),
        (("--features", "{root}", "--ids", "{root}/A/comparE.h5"), "cannot be read as names"),
        (("--features", "{root}", "--ids", "x", "--feature-file", "a"), "wanted for example a="),
        (("--features", "{root}", "--ids", "x", "--feature-file", "a=no.h5"), "read as HDF5"),
    ],
)
def test_mistakes(bundle: Path, features: Path, options: tuple[str, ...], wanted: str) -> None:
    ran = run(bundle, *(option.format(root=features) for option in options))
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert wanted in ran.err


def test_the_file_that_fits_is_taken(bundle: Path, features: Path) -> None:
    asked = (bundle, "--features", features, "--ids", "one", *JSON)
    truth = run(*asked).answers[0]["logits"]
    _write(features / "A" / "aaa_narrow.h5", {"one": np.ones((3, 4)), "two": np.ones(4)})
    assert run(*asked).answers[0]["logits"] == truth
    _write(features / "A" / "other.h5", {"one": np.ones((3, 5))})
    ran = run(*asked)
    assert ran.code == 2
    assert "comparE.h5, other.h5 all fit; name one with --feature-file a=A/comparE.h5" in ran.err
    assert run(*asked, "--feature-file", "a=A/comparE.h5").answers[0]["logits"] == truth
    for name in ("comparE.h5", "other.h5"):
        (features / "A" / name).unlink()
    assert "no file has the 5 features a frame" in run(*asked).err
    (features / "A" / "aaa_narrow.h5").write_bytes(b"damaged")
    assert "cannot be read as HDF5" in run(*asked).err


def test_without_h5py(bundle: Path, features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    ran = run(bundle, "--features", features, "--ids", "one")
    assert (ran.code, ran.err) == (2, "error: reading --features needs h5py; pip install h5py\n")


_MISSING = MissingSpec(length=5, deviation=0.0, settled_at=5, tolerance=1e-6)


def test_the_composite_corpus(composite: dict[str, Path], capsys: Any) -> None:
    specs = {
        modality: ModalitySpec(
            dim=dim, minimum_length=1, verified_length=100, frame_rate=None, features="as stored",
            missing=_MISSING, normalised=modality is Modality.A,
        )
        for modality, dim in zip(Modality, (130, 35, 384), strict=True)
    }  # fmt: skip
    names = read_names(str(composite["targets"] / "1" / "tst_int2name.npy"))
    source = released_source(composite["features"], names, specs, [])
    assert "note: this bundle wants a standardised; " in capsys.readouterr().err
    assert source.count == len(names) > 50
    clips = [item.read() for item in source.items()]
    assert [clip.name for clip in clips] == names
    for clip in clips:
        shapes = {str(Modality.of(m)): np.shape(x)[1] for m, x in clip.utterance.items()}
        assert shapes == {"a": 130, "v": 35, "t": 384}
