"""What a checkpoint says of its front-ends goes into the bundle, with their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from run_command import call, mistake
from small_networks import small_network

from ifmmin.export.bundle_cli import main as bundle_main
from ifmmin.export.cli import main
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.frontends import openface
from ifmmin.runtime.frontends.spec import FileEntry, FrontEndSpec, folder_files
from ifmmin.runtime.modality import Modality
from ifmmin.train.checkpoint import save_checkpoint

WORDS = {"graph": b"a graph of words", "vocabulary": b"a\nb\n"}
SOUND = {"graph": b"a graph of sound"}
PART = ("--pattern", "a_t", "--shape", "latency")


def _spec(dim: int, contents: dict[str, bytes], kind: str, names: Sequence[str]) -> FrontEndSpec:
    files = {
        role: FileEntry.of(name, content)
        for name, (role, content) in zip(names, contents.items(), strict=True)
    }
    return FrontEndSpec(
        kind=kind, version=1, dim=dim, frame_rate=None, features="made", files=files
    )


WORDS_SPEC = _spec(11, WORDS, "made_words", ("words.onnx", "words.txt"))
SOUND_SPEC = _spec(5, SOUND, "made_sound", ("sound.onnx",))


def _folder(place: Path, spec: FrontEndSpec, contents: dict[str, bytes]) -> Path:
    place.mkdir()
    for name, content in folder_files(spec, contents).items():
        (place / name).write_bytes(content)
    return place


def _checkpoint(path: Path, **specs: FrontEndSpec) -> Path:
    network = small_network()
    features = {
        m: msgspec.structs.replace(f, frontend=specs.get(m.value))
        for m, f in network.config.features.items()
    }
    network.config = msgspec.structs.replace(network.config, features=features)
    save_checkpoint(path, network, {})
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return _checkpoint(tmp_path / "m.safetensors", a=SOUND_SPEC, t=WORDS_SPEC)


@pytest.fixture
def given(tmp_path: Path) -> tuple[str, ...]:
    words = _folder(tmp_path / "words", WORDS_SPEC, WORDS)
    sound = _folder(tmp_path / "sound", SOUND_SPEC, SOUND)
    return ("--frontend", f"a={sound}", "--frontend", f"t={words}")


def test_files_of_front_ends_go_along_and_stay(
    checkpoint: Path, given: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    assert call(main, checkpoint, *PART, "-o", out, *given).code == 0
    # The bundle that stands has them: nobody has to say again where they were.
    assert call(main, checkpoint, "--pattern", "a", "--shape", "latency", "-o", out).code == 0
    bundle = Bundle(out)
    assert list(map(str, bundle.patterns)) == ["a", "a_t"]
    specs = {m.value: spec.frontend for m, spec in bundle.manifest.modalities.items()}
    assert specs == {"a": SOUND_SPEC, "v": None, "t": WORDS_SPEC}
    for contents, names in ((WORDS, ("words.onnx", "words.txt")), (SOUND, ("sound.onnx",))):
        assert [(out / name).read_bytes() for name in names] == list(contents.values())
    # Of another checkpoint with --overwrite, they may come from the bundle that is replaced.
    other = _checkpoint(tmp_path / "o.safetensors", t=WORDS_SPEC)
    assert (
        call(main, other, "--pattern", "t", "--shape", "latency", "-o", out, "--overwrite").code
        == 0
    )
    assert (out / "words.txt").read_bytes() == WORDS["vocabulary"]
    assert not (out / "sound.onnx").exists()


def test_files_that_are_nowhere_are_named(
    checkpoint: Path, given: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    said = mistake(main, checkpoint, *PART, "-o", out, *given[:2])
    assert f"{WORDS_SPEC.identity} of t wants words.onnx" in said
    assert "--frontend t=DIR" in said
    (tmp_path / "words" / "words.txt").write_bytes(b"a\nc\n")
    assert "words.txt" in mistake(main, checkpoint, *PART, "-o", out, *given)
    assert not out.exists()


def test_another_front_end_is_refused(
    checkpoint: Path, given: tuple[str, ...], tmp_path: Path
) -> None:
    moved = msgspec.structs.replace(WORDS_SPEC, settings={"layer": 3})
    folder = _folder(tmp_path / "moved", moved, WORDS)
    words = (*given[:2], "--frontend", f"t={folder}")
    said = mistake(main, checkpoint, *PART, "-o", tmp_path / "b", *words)
    assert moved.identity in said
    assert WORDS_SPEC.identity in said
    said = mistake(main, checkpoint, *PART, "-o", tmp_path / "b", "--frontend", f"v={folder}")
    assert "names no front-end of v" in said
    said = mistake(main, checkpoint, *PART, "-o", tmp_path / "b", "--frontend", f"a={tmp_path}")
    assert "is no folder of a front-end" in said


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    same = _spec(5, SOUND, "made_sound", ("words.onnx",))
    checkpoint = _checkpoint(tmp_path / "m.safetensors", a=same, t=WORDS_SPEC)
    words = _folder(tmp_path / "words", WORDS_SPEC, WORDS)
    sound = _folder(tmp_path / "sound", same, SOUND)
    folders = ("--frontend", f"a={sound}", "--frontend", f"t={words}")
    assert "different files of the name words.onnx" in mistake(
        main, checkpoint, *PART, "-o", tmp_path / "b", *folders
    )


def test_a_pattern_that_the_checkpoint_lacks_is_told(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.safetensors", small_network("two"), {})
    said = mistake(main, tmp_path / "m.safetensors", "--pattern", "a_v", "-o", tmp_path / "b")
    assert "takes a, t, so it has no pattern a_v; give one of a, t, a_t" in said
    words = ("--missing-frames", "v=9", "-o", tmp_path / "b")
    assert "takes a, t only" in mistake(main, tmp_path / "m.safetensors", *words)


@pytest.mark.parametrize("kind", ["two", "two-statistics", "one"])
def test_a_bundle_of_some_modalities_is_whole(kind: str, tmp_path: Path) -> None:
    """All graphs, golden inputs, card and a proof anew."""
    network = small_network(kind)
    checkpoint, out = tmp_path / "m.safetensors", tmp_path / "bundle"
    save_checkpoint(checkpoint, network, {})
    assert call(main, checkpoint, "-o", out, "--shape", "throughput").code == 0
    bundle = Bundle(out)
    assert bundle.patterns == bundle.stream_patterns == network.config.patterns
    assert tuple(bundle.manifest.modalities) == network.modalities
    assert {m for f in bundle.golden_inputs() for m in f} == set(network.modalities)
    shapes = {(e.shape, e.subject) for e in bundle.manifest.graphs}
    patterns, modalities = map(str, network.config.patterns), map(str, network.modalities)
    assert shapes == {
        *((shape, p) for p in patterns for shape in ("latency", "throughput", "head")),
        *((shape, m) for m in modalities for shape in ("step", "summary")),
    }
    verified = call(bundle_main, "verify", "-b", out, "--checkpoint", checkpoint)
    assert verified.code == 0, verified.err
    absent = {"two": "visual", "two-statistics": "acoustic", "one": "textual"}[kind]
    assert absent not in (out / "README.md").read_text()


def test_the_modality_s_own_width_is_the_front_end_s() -> None:
    network = small_network()
    feature = network.config.features[Modality.V]
    assert openface.specify().dim != feature.dim
    with pytest.raises(Exception, match="makes 35 features a frame, got 7"):
        msgspec.convert(
            msgspec.to_builtins(feature) | {"frontend": msgspec.to_builtins(openface.specify())},
            type(feature),
        )
