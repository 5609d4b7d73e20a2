"""Mutated files: what they hold is right, or one clear error; never another exception or a hang."""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import Change, Edit, bounded, edited, edits, fuzzed, mutated, mutations
from run_command import arrays, call, frames, line
from small_bundles import copied, put

from ifmmin.runtime import (
    BackendUnavailable,
    BundleError,
    InputError,
    Predictor,
    Recognizer,
    Smoothing,
    StreamOptions,
)
from ifmmin.runtime.bundle import MANIFEST_NAME, Bundle, shipped
from ifmmin.runtime.bundle.graph_file import read_graph_file
from ifmmin.runtime.cli.readers import find_inputs
from ifmmin.runtime.cli.run import main
from ifmmin.runtime.frontends.base import open_frontend
from ifmmin.runtime.frontends.sound import read_sound
from ifmmin.runtime.frontends.spec import FRONT_END_NAME, folder_files, read_folder, reader_of
from ifmmin.runtime.modality import Modality

CPU = "onnxruntime-cpu"
GOLDEN = "golden.safetensors"
VOICE = "a.latency.fp32.onnx"
WIDE = st.one_of(
    st.integers(-100, 200), st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 60_000)
)
UTTERANCE = {"a": np.array(frames("a", 9), np.float32)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: Any) -> Path:
    made: Path = make_bundle(("a", "t", "a_t"), shapes=("latency", "stream"))
    return copied(made, tmp_path_factory.mktemp("fuzzed"))


def _one_line(error: Exception) -> None:
    assert str(error)
    assert "\n" not in str(error)


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> bytes:
    return (bundle / MANIFEST_NAME).read_bytes()


@fuzzed(250)
@given(changes=mutations())
def test_manifest(bundle: Path, manifest: bytes, changes: list[Change]) -> None:
    (bundle / MANIFEST_NAME).write_bytes(manifest)
    wanted = Predictor(bundle, backend=CPU).predict(UTTERANCE)
    (bundle / MANIFEST_NAME).write_bytes(mutated(manifest, changes))
    with bounded():
        try:
            found = Predictor(bundle, backend=CPU).predict(UTTERANCE)
        except (BundleError, InputError) as error:
            _one_line(error)
        else:
            assert (found.label, found.labels) == (wanted.label, wanted.labels)
            assert np.array_equal(found.logits, wanted.logits)
    (bundle / MANIFEST_NAME).write_bytes(manifest)


@fuzzed(200)
@given(changes=mutations())
def test_golden_vectors(bundle: Path, manifest: bytes, changes: list[Change]) -> None:
    """With a hash that agrees, as somebody would write it who knows how."""
    content = (bundle / GOLDEN).read_bytes()
    put(bundle, GOLDEN, mutated(content, changes))
    with bounded():
        try:
            cases = Bundle(bundle).golden()
        except BundleError as error:
            _one_line(error)
        else:
            assert all(np.isfinite(case.logits).all() for case in cases)
    (bundle / GOLDEN).write_bytes(content)
    (bundle / MANIFEST_NAME).write_bytes(manifest)


@fuzzed(300)
@given(changes=mutations())
def test_graph_file(bundle: Path, changes: list[Change]) -> None:
    content = mutated((bundle / VOICE).read_bytes(), changes)
    with bounded():
        try:
            read_graph_file(content)
        except ValueError as error:
            _one_line(error)


@pytest.fixture(scope="module")
def answers(bundle: Path) -> Callable[[bytes], list[Any]]:
    """What `ifmmin-run` answers to lines of JSON."""

    def run(content: bytes) -> list[Any]:
        ran = call(main, "-b", bundle, "--backend", CPU, "--format", "json", "-", stdin=content)
        assert "Traceback" not in ran.err
        assert ran.code in (0, 1, 2)
        return [json.loads(text) for text in ran.out.splitlines()]

    return run


@fuzzed(150)
@given(changes=mutations())
def test_lines_of_json(answers: Callable[[bytes], list[Any]], changes: list[Change]) -> None:
    """Whatever a line is, it has one answer or one error, and the next line has its own."""
    damaged = mutated(line("at", id="x").encode(), changes)
    sound = line("a", id="sound").encode()
    with bounded():
        found = answers(damaged + b"\n" + sound + b"\n")
    assert len(found) == sum(1 for text in damaged.split(b"\n") if text.strip()) + 1
    assert found[-1]["input"] == "sound"
    assert all(("error" in answer) != ("label" in answer) for answer in found)
    assert "label" in found[-1]


@fuzzed(250)
@given(changes=mutations())
def test_archive(tmp_path_factory: pytest.TempPathFactory, changes: list[Change]) -> None:
    packed = io.BytesIO()
    features = arrays("at")
    np.savez_compressed(packed, **features)  # type: ignore[arg-type]
    path = tmp_path_factory.getbasetemp() / "fuzzed.npz"
    path.write_bytes(mutated(packed.getvalue(), changes))
    with bounded():
        try:
            (sample,) = [lazy.read() for lazy in find_inputs([str(path)]).items()]
        except InputError as error:
            _one_line(error)
        else:
            assert all(
                np.array_equal(array, features[str(name)])
                for name, array in sample.utterance.items()
            )


@pytest.mark.parametrize("agrees", [False, True])
@fuzzed(120)
@given(changes=mutations())
def test_snapshot(bundle: Path, agrees: bool, changes: list[Change]) -> None:
    """agrees: the checksum was made for what the snapshot now holds."""
    stream = Predictor(bundle, backend=CPU).stream(StreamOptions(smoothing=Smoothing()))
    stream.push(a=frames("a", 6), t=frames("t", 7))
    wanted, content = stream.predict(), stream.snapshot()
    head, body = content.split(b"\n", 1)
    forged = mutated(body[32:] if agrees else content, changes)
    if agrees:
        forged = head + b"\n" + hashlib.sha256(forged).digest() + forged
    with bounded():
        try:
            stream.resume(forged)
            stream.push(a=frames("a", 2))
            stream.predict()
        except InputError as error:
            _one_line(error)
    stream.resume(content)
    assert np.array_equal(stream.predict().logits, wanted.logits)


@pytest.fixture(scope="module")
def sad(root: Path) -> Any:
    return read_sound(root / "examples" / "recordings" / "sad.wav")


@fuzzed(100)
@given(changes=mutations())
def test_front_end(
    tmp_path_factory: pytest.TempPathFactory, sad: Any, changes: list[Change]
) -> None:
    spec = Bundle(shipped()).manifest.modalities[Modality.A].frontend
    assert spec is not None
    read = reader_of(shipped())
    folder = tmp_path_factory.getbasetemp() / "front-end"
    if not folder.is_dir():
        folder.mkdir()
        contents = {role: read(entry) for role, entry in spec.files.items()}
        for name, content in folder_files(spec, contents).items():
            (folder / name).write_bytes(content)
        (folder / "whole").write_bytes((folder / FRONT_END_NAME).read_bytes())
    (folder / FRONT_END_NAME).write_bytes(mutated((folder / "whole").read_bytes(), changes))
    with bounded():
        try:
            found, opened = read_folder(folder)
            features = open_frontend(found, opened).whole(sad)
        except (BundleError, InputError) as error:
            _one_line(error)
        else:
            assert features.shape[1] == spec.dim
            assert np.isfinite(features).all()
            if found.identity == spec.identity:
                assert np.array_equal(features, open_frontend(spec, read).whole(sad))


@fuzzed(100)
@given(changes=mutations())
def test_front_ends_of_a_manifest(
    tmp_path_factory: pytest.TempPathFactory, sad: Any, changes: list[Change]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "speech"
    if not folder.is_dir():
        folder.mkdir()
        for file in shipped().iterdir():
            (folder / file.name).symlink_to(file)
        (folder / MANIFEST_NAME).unlink()
    manifest = json.loads((shipped() / MANIFEST_NAME).read_bytes())
    whole = json.dumps(manifest)
    told = json.dumps(manifest["modalities"])
    assert told in whole
    begins = whole.index(told)
    forged = mutated(told.encode(), changes)
    (folder / MANIFEST_NAME).write_bytes(
        whole[:begins].encode() + forged + whole[begins + len(told) :].encode()
    )
    with bounded():
        try:
            found = Recognizer(folder, backend=CPU).recognize(sound=sad)
        except (BundleError, InputError) as error:
            _one_line(error)
        else:
            assert np.isfinite(found.logits).all()


@pytest.mark.parametrize("agrees", [False, True])
@fuzzed(120)
@given(changes=mutations())
def test_snapshot_of_sound(sad: Any, agrees: bool, changes: list[Change]) -> None:
    stream = _recognizer().stream()
    stream.push_sound(sad.samples, sad.rate)
    wanted, content = stream.predict(), stream.snapshot()
    head, body = content.split(b"\n", 1)
    forged = mutated(body[32:] if agrees else content, changes)
    if agrees:
        forged = head + b"\n" + hashlib.sha256(forged).digest() + forged
    with bounded():
        try:
            stream.resume(forged)
        except InputError as error:
            _one_line(error)
            assert np.array_equal(stream.predict().logits, wanted.logits), "it has changed"
        else:
            try:
                stream.push_sound(sad.samples[:800], sad.rate)
                stream.predict()
            except InputError as error:
                _one_line(error)
    stream.resume(content)
    assert np.array_equal(stream.predict().logits, wanted.logits)


@fuzzed(150)
@given(changes=edits())
def test_fields_of_a_front_end(
    tmp_path_factory: pytest.TempPathFactory, sad: Any, changes: list[Edit]
) -> None:
    """Specifications that are JSON, of which fields have other types, sizes or contradict."""
    specs = Bundle(shipped()).manifest.modalities
    folder = tmp_path_factory.getbasetemp() / "fields"
    if not folder.is_dir():
        folder.mkdir()
        for file in shipped().iterdir():
            (folder / file.name).symlink_to(file)
    for modality, signal in ((Modality.A, sad), (Modality.T, "fine " * 300)):
        spec = msgspec.to_builtins(specs[modality].frontend)
        (folder / FRONT_END_NAME).write_text(json.dumps(edited(spec, changes), default=str))
        with bounded():
            try:
                found, opened = read_folder(folder)
                features = open_frontend(found, opened).whole(signal)
            except (BundleError, InputError, BackendUnavailable) as error:
                _one_line(error)
            else:
                assert features.ndim == 2
                assert np.isfinite(features).all()
                assert found.kind != "ge2e" or features.shape[1] == found.dim


@fuzzed(300)
@given(changes=edits(), numbers=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), WIDE)))
def test_fields_of_a_snapshot_of_sound(
    sad: Any, changes: list[Edit], numbers: list[tuple[float, int]]
) -> None:
    """Its checksum agrees; its fields, or the counts in its arrays, are what they cannot be."""
    stream = _recognizer().stream()
    stream.push_sound(sad.samples[:24_000], sad.rate)
    wanted, content = stream.predict(), stream.snapshot()
    head, body = content.split(b"\n", 1)
    tree = msgspec.msgpack.decode(body[32:])
    arrays = tree["frontends"]["a"]["state"]
    counts = [kept for kept in arrays.values() if kept["dtype"] == "<i8" and kept["content"]]
    for place, number in numbers:
        kept = counts[int(place * len(counts))]
        values = np.frombuffer(kept["content"], "<i8").copy()
        values[int(place * len(counts) % 1 * len(values))] = number
        kept["content"] = values.tobytes()
    forged = msgspec.msgpack.encode(tree if numbers else edited(tree, changes))
    forged = head + b"\n" + hashlib.sha256(forged).digest() + forged
    with bounded():
        try:
            stream.resume(forged)
        except (InputError, BundleError) as error:
            _one_line(error)
            assert stream.snapshot() == content, "it has changed"
        else:
            for _ in range(3):
                try:
                    stream.push_sound(sad.samples[24_000:32_000], sad.rate)
                    stream.predict()
                    stream.snapshot()
                except InputError as error:
                    _one_line(error)
    stream.resume(content)
    assert np.array_equal(stream.predict().logits, wanted.logits)


@functools.cache
def _recognizer() -> Recognizer:
    return Recognizer(backend=CPU)
