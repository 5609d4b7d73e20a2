"""The module: the answers of the runtime, of the same bundle, computed by ONNX Runtime Web."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_module import Module, ModuleError, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_bundles import edit, flip

from ifmmin.runtime import Predictor
from ifmmin.runtime.bundle import Bundle, shipped
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.frontends.sound import Sound, read_sound
from ifmmin.runtime.frontends.wordpiece import WordPiece
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.recognizer import Recognizer
from ifmmin.runtime.stream.options import StreamOptions

CPU = "onnxruntime-cpu"
TEXT = "How dare you say that"


@pytest.fixture(scope="module")
def small_module(small_site: Path) -> Iterator[Module]:
    with running(small_site) as module:
        module("open")
        yield module


@pytest.fixture(scope="module")
def speech_module(speech_site: Path) -> Iterator[Module]:
    with running(speech_site) as module:
        module("open")
        yield module


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(backend=CPU)


def test_golden_vectors_of_every_pattern(small: Path, small_module: Module) -> None:
    seen, features = set(), {}
    for case in Bundle(small).golden():
        features = {m.value: x for m, x in case.features.items()}
        found = small_module("recognize", {"features": features})
        np.testing.assert_allclose(found["logits"], case.logits, atol=1e-4)
        assert found["pattern"] == str(case.pattern)
        seen.add(found["pattern"])
    assert len(seen) == 7
    # A control: modalities that have changed places are noticed, or other numbers come of them.
    swapped = {"a": features["v"], "v": features["a"]}
    with pytest.raises(ModuleError, match="wanted frames of"):
        small_module("recognize", {"features": swapped})


def test_what_ships_answers_its_golden_vectors(speech_module: Module) -> None:
    for case in Bundle(shipped()).golden():
        features = {m.value: x for m, x in case.features.items()}
        found = speech_module("recognize", {"features": features})
        np.testing.assert_allclose(found["logits"], case.logits, atol=1e-4)


def test_an_answer_has_the_fields_of_a_prediction(small: Path, small_module: Module) -> None:
    rng = np.random.default_rng(4)
    dims = {m.value: spec.dim for m, spec in Bundle(small).manifest.modalities.items()}
    features = {m: rng.standard_normal((9, dim)).astype(np.float32) for m, dim in dims.items()}
    features["v"] = np.full_like(features["v"], np.nan)
    wanted = Predictor(small, backend=CPU).predict(features, pattern="a").to_dict()
    found = small_module("recognize", {"features": features, "pattern": "a"})
    assert list(found) == list(wanted)
    for name in ("pattern", "label", "precision", "absent", "dropped_frames"):
        assert found[name] == wanted[name], name
    assert found["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-5)
    assert found["backend"] == "onnxruntime-web"
    assert 0 < found["seconds"] < 10


@pytest.mark.parametrize("window", [None, 2.0])
def test_a_stream_of_features(small: Path, small_module: Module, window: float | None) -> None:
    rng = np.random.default_rng(5)
    specs = Bundle(small).manifest.modalities
    stream = Predictor(small, backend=CPU).stream(StreamOptions(window=window))
    small_module("begin", {"window": window})
    with pytest.raises(ModuleError, match=r"no modality is present .a: not given; v: not given"):
        small_module("stream", "predict")
    now = 0.0
    for turn in range(24):
        now += float(rng.uniform(0.05, 0.6))
        for modality, spec in specs.items():
            if rng.random() < 0.3:
                continue
            frames = rng.standard_normal((int(rng.integers(1, 8)), spec.dim)).astype(np.float32)
            stream.push({modality.value: frames}, at=now)
            small_module("stream", "push", modality.value, frames, now)
        if turn % 7 == 3:
            stream.drop("v")
            small_module("stream", "drop", "v")
        if turn % 7 == 5:
            stream.restore("v")
            small_module("stream", "restore", "v")
            stream.clear("t")
            small_module("stream", "clear", "t")
        wanted, found = stream.predict().to_dict(), small_module("stream", "predict")
        np.testing.assert_allclose(found["logits"], wanted["logits"], atol=1e-4)
        assert (found["pattern"], found["absent"]) == (wanted["pattern"], wanted["absent"])
        assert small_module("stream", "frames") == {m.value: n for m, n in stream.frames.items()}


def _heard(recognizer: Recognizer, module: Module, sound: Sound, window: float | None) -> None:
    """The same sound in the same pieces, with the same words: the same at every moment."""
    stream = recognizer.stream(StreamOptions(window=window))
    module("begin", {"window": window})
    samples = np.asarray(sound.samples, np.float32)
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    size, answers = round(0.27 * sound.rate), 0
    for turn, at in enumerate(range(0, len(samples), size)):
        piece = samples[at : at + size]
        stream.push_sound(piece, sound.rate)
        module("stream", "pushSound", piece, sound.rate, channels)
        if turn == 4:
            stream.set_text(TEXT)
            module("stream", "setText", TEXT)
        try:
            wanted = stream.predict().to_dict()
        except InputError:
            with pytest.raises(ModuleError, match="InputError: no modality is present"):
                module("stream", "predict")
            continue
        answers += 1
        found = module("stream", "predict")
        assert found["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-3)
        assert found["pattern"] == wanted["pattern"]
    assert answers > 4
    assert module("stream", "frames") == {m.value: n for m, n in stream.frames.items()}


@pytest.mark.parametrize(("name", "window"), [("angry", None), ("happy", 2.0), ("sad", 8.0)])
def test_a_recording_fed_as_a_microphone(
    recognizer: Recognizer, speech_module: Module, root: Path, name: str, window: float | None
) -> None:
    sound = read_sound(root / "examples" / "recordings" / f"{name}.wav")
    _heard(recognizer, speech_module, sound, window)


@pytest.mark.parametrize("rate", [11025, 44056, 48000])
def test_any_rate_two_channels_silence(
    recognizer: Recognizer, speech_module: Module, root: Path, rate: int
) -> None:
    sound = read_sound(root / "examples" / "recordings" / "sad.wav")
    seconds = np.arange(int(len(sound.samples) * rate / sound.rate)) / rate
    times = np.arange(len(sound.samples)) / sound.rate
    samples = np.interp(seconds, times, sound.samples).astype(np.float32)
    silence = np.zeros(rate // 2, np.float32)
    samples = np.concatenate([silence, 3 * samples, silence, 0.1 * samples])
    # The second channel begins late: until then it does not count.
    second = np.where(np.arange(len(samples)) < rate, 0, 0.5 * samples).astype(np.float32)
    stereo = np.ascontiguousarray(np.stack([samples, second], axis=1))
    _heard(recognizer, speech_module, Sound(stereo, rate), None)
    wanted = recognizer.recognize(sound=(stereo, rate)).to_dict()
    found = speech_module("recognize", {"sound": stereo, "rate": rate, "channels": 2})
    np.testing.assert_allclose(found["logits"], wanted["logits"], atol=2e-3)


def test_sixteen_bits_and_a_long_sound(
    recognizer: Recognizer, speech_module: Module, root: Path
) -> None:
    sound = read_sound(root / "examples" / "recordings" / "happy.wav")
    whole = np.tile((sound.samples * 32767).astype(np.int16), 8)
    wanted = recognizer.recognize(sound=(whole, sound.rate), text=TEXT).to_dict()
    found = speech_module("recognize", {"sound": whole, "rate": sound.rate, "text": TEXT})
    np.testing.assert_allclose(found["logits"], wanted["logits"], atol=2e-3)
    assert found["pattern"] == "a_t"


@pytest.mark.parametrize("text", [TEXT, "", " \n", "Ça va? 你好!", "x" * 150, "word " * 700])
def test_words(recognizer: Recognizer, speech_module: Module, text: str) -> None:
    if not text.strip():
        with pytest.raises(ModuleError, match="t: no words are in it"):
            speech_module("recognize", {"text": text})
        return
    wanted = recognizer.recognize(text=text).to_dict()
    found = speech_module("recognize", {"text": text})
    # The encoder computes in 8 bits, and rounds otherwise in another processor.
    assert found["probabilities"] == pytest.approx(wanted["probabilities"], abs=0.02)


@pytest.fixture(scope="module")
def pieces(speech_module: Module) -> dict[bool, WordPiece]:
    """By whether case does not matter; the module has the same by the names `True` and `False`."""
    (entry,) = (
        spec.frontend.files["vocabulary"]
        for spec in Bundle(shipped()).manifest.modalities.values()
        if spec.frontend and "vocabulary" in spec.frontend.files
    )
    text = (shipped() / entry.file).read_text(encoding="utf-8")
    numbers = {piece: n for n, piece in enumerate(text.removesuffix("\n").split("\n"))}
    for lower in (True, False):
        speech_module("vocabulary", str(lower), text, lower)
    return {lower: WordPiece(numbers, lower_case=lower) for lower in (True, False)}


_LETTERS = st.characters(exclude_categories=["Cs", "Cn"])
_SPANS = st.one_of(st.text(_LETTERS), st.sampled_from(["[MASK]", "[CLS]", "[", "unfortunately"]))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(_SPANS, max_size=6).map("".join))
def test_pieces_of_any_text(
    speech_module: Module, pieces: dict[bool, WordPiece], lower: bool, text: str
) -> None:
    wanted, _ = pieces[lower].encode(text, 40)
    assert speech_module("encode", str(lower), text, 40) == wanted


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"sound": np.zeros(4, np.float32), "rate": 1}, "InputError: sound: got a rate of 1"),
        ({"sound": np.full(4, np.nan, np.float32)}, "InputError: sound: wanted finite samples"),
        ({"sound": np.zeros(3, np.float32), "channels": 2}, "InputError: sound: got 3 samples"),
        ({"sound": [1, 2]}, "InputError: sound: wanted samples as a Float32Array"),
        ({"sound": np.zeros(16000, np.float32)}, "a: no speech was found in it"),
        ({"text": "\ud800"}, "InputError: words: wanted text"),
        ({}, "InputError: no modality is present"),
        ({"features": {"v": [[1.0]]}}, "InputError: this bundle knows no modality v"),
        ({"features": {"a": [[1.0]]}}, "InputError: modality a .voice.: wanted frames of 512"),
        ({"text": TEXT, "pattern": "a_t"}, "pattern a_t needs modality a, which is missing"),
    ],
)
def test_what_cannot_be_taken(speech_module: Module, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ModuleError, match=told):
        speech_module("recognize", asked)


def test_an_infinity_is_named(small: Path, small_module: Module) -> None:
    dim = Bundle(small).manifest.modalities[Modality.V].dim
    frames = np.zeros((6, dim), np.float32)
    frames[2, 1] = np.inf
    with pytest.raises(ModuleError, match=r"modality v .face.: Infinity at frame 2, column 1"):
        small_module("recognize", {"features": {"v": frames}})


def _answer_all(site: Path, features: dict[str, Any]) -> None:
    """Use every graph of modality a, of utterances and of streams."""
    with running(site) as module:
        module("open")
        module("recognize", {"features": features})
        module("begin", {})
        module("stream", "push", "a", features["a"])
        module("stream", "predict")


def test_a_flipped_bit_in_any_file(small: Path, small_site: Path, tmp_path: Path) -> None:
    dim = Bundle(small).manifest.modalities[Modality.A].dim
    features = {"a": np.ones((8, dim), np.float32)}
    _answer_all(small_site, features)
    names = [str(p.relative_to(small_site)) for p in small_site.rglob("*") if p.is_file()]
    used = [n for n in names if n.startswith(("bundle/a.", "bundle/man", "onnx"))]
    assert len(used) == 7
    site = tmp_path / "site"
    shutil.copytree(small_site, site)
    for name in used:
        flip(site / name)
        with pytest.raises(ModuleError, match=r"BundleError: .*damaged"):
            _answer_all(site, features)
        shutil.copyfile(small_site / name, site / name)
    listed = (site / "files.json").read_text()
    for at in (listed.index("bundle/a.head") + 9, listed.index(":", listed.index("a.head")) + 9):
        letter = "1" if listed[at] != "1" else "2"
        (site / "files.json").write_text(listed[:at] + letter + listed[at + 1 :])
        with pytest.raises(ModuleError, match=r"BundleError: bundle/a\.head.*files\.json"):
            _answer_all(site, features)
    (site / "files.json").write_text(listed)
    for path in site.glob("*.js"):
        if path.name in ("page.js", "engines.js", "service-worker.js"):
            continue  # of these the page and the browser see to it
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        with pytest.raises(ModuleError, match=f"BundleError: {path.name} is damaged"):
            _answer_all(site, features)
        path.write_bytes(content)


def _with_schema(schema: int, content: dict[str, Any]) -> None:
    content["schema"] = schema


def test_another_version(small_site: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(small_site, site)
    for schema, which in ((5, "a newer"), (3, "another")):
        edit(site / "bundle", partial(_with_schema, schema))
        listed = json.loads((site / "files.json").read_text())
        content = (site / "bundle" / "manifest.json").read_bytes()
        listed["bundle/manifest.json"] = hashlib.sha256(content).hexdigest()
        (site / "files.json").write_text(json.dumps(listed))
        with running(site) as module, pytest.raises(ModuleError, match=f"{which} version.*schema"):
            module("open")
    (site / "files.json").unlink()
    with running(site) as module, pytest.raises(ModuleError, match=r"files\.json cannot be read"):
        module("open")


def test_a_browser_without_simd(small_site: Path) -> None:
    told = "UnavailableError: This browser has no WebAssembly"
    with running(small_site, "without SIMD") as module, pytest.raises(ModuleError, match=told):
        module("open")
