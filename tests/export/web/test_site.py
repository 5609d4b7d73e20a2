"""The folder: what is in it, how large it is, and what is refused."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from run_command import call
from small_bundles import ALL

from ifmmin.export.bundle_cli import main
from ifmmin.export.web.site import reduced, write_site
from ifmmin.runtime.bundle import Bundle, read_manifest, shipped
from ifmmin.runtime.errors import BundleError, InputError, OutputError
from ifmmin.runtime.modality import Modality


def _files(site: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(site)): path.read_bytes() for path in site.rglob("*") if path.is_file()
    }


def test_what_ships_without_words_is_small_and_whole(package: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    ran = call(main, "web", "-o", site, "--onnxruntime-web", package)
    assert ran.code == 0, ran.err
    files = _files(site)
    assert f"wrote {site}: {len(files)} files" in ran.err
    assert sum(map(len, files.values())) < 25_000_000
    listed = json.loads(files["files.json"])
    assert listed.keys() == files.keys() - {"files.json", "service-worker.js"}
    assert all(hashlib.sha256(files[name]).hexdigest() == listed[name] for name in listed)
    worker = files["service-worker.js"].decode()
    assert f'"{hashlib.sha256(files["files.json"]).hexdigest()}"' in worker
    assert {m.value for m in read_manifest(site / "bundle").modalities} == {"a"}
    text = files["index.html"].decode()
    assert text.count("integrity=") == 3
    assert "default-src 'self'" in text
    assert 'data-engine="browser"' in text
    # Again, over what was there; the same bundle gives the same bytes.
    assert call(main, "web", "-o", site, "--onnxruntime-web", package).code == 0
    assert _files(site) == files


def test_words_are_taken_when_asked_for() -> None:
    manifest = Bundle(shipped()).manifest
    assert list(reduced(manifest, words=True).modalities) == [Modality.A, Modality.T]
    alone = reduced(manifest, words=False)
    assert list(alone.modalities) == [Modality.A]
    assert {entry.subject for entry in alone.graphs} == {"a"}
    # Features that no browser makes are given by file.
    spec = manifest.modalities[Modality.T]
    assert spec.frontend is not None
    other = msgspec.structs.replace(spec.frontend, kind="elmo")
    modalities = manifest.modalities | {Modality.T: msgspec.structs.replace(spec, frontend=other)}
    foreign = reduced(msgspec.structs.replace(manifest, modalities=modalities), words=False)
    assert foreign.modalities[Modality.T].frontend is None
    assert {entry.subject for entry in foreign.graphs} == {"a", "t", "a_t"}


def test_graphs_of_batches_and_of_few_bits_stay_behind(make_bundle: Callable[..., Path]) -> None:
    manifest = Bundle(make_bundle(ALL)).manifest
    few = tuple(msgspec.structs.replace(entry, precision="int8") for entry in manifest.graphs)
    manifest = msgspec.structs.replace(manifest, graphs=(*few, *manifest.graphs))
    graphs = reduced(manifest, words=False).graphs
    assert {entry.precision for entry in graphs} == {"fp32"}
    assert {entry.shape for entry in graphs} == {"latency", "step", "summary", "head"}
    assert len({(entry.shape, entry.subject) for entry in graphs}) == len(graphs)
    streams = tuple(entry for entry in manifest.graphs if entry.shape != "latency")
    with pytest.raises(BundleError, match="no float32 graph of whole utterances"):
        reduced(msgspec.structs.replace(manifest, graphs=streams), words=False)


def test_a_folder_of_other_things_is_left_alone(small: Path, package: Path, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(OutputError, match="holds other things; name a new directory"):
        write_site(Bundle(small), tmp_path, package=package)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_another_package_is_refused(small: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.tgz"
    text.write_text("no archive")
    wrong = tmp_path / "wrong.tgz"
    (tmp_path / "ort").write_text("code")
    with tarfile.open(wrong, "w:gz") as archive:
        for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
            archive.add(tmp_path / "ort", f"package/dist/{name}")
    for package, told in (
        (text, "is not the package onnxruntime-web"),
        (wrong, r"has the sha256 .* wanted .* of version 1\.30\.0; get it by npm pack"),
        (tmp_path / "absent.tgz", "cannot be read: No such file"),
    ):
        with pytest.raises(InputError, match=told):
            write_site(Bundle(small), tmp_path / "site", package=package)
        assert not (tmp_path / "site").exists()


def test_without_npm(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="npm, from which onnxruntime-web comes, is not installed"):
        write_site(Bundle(small), tmp_path / "site")
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho npm error: no network >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(InputError, match=r"failed \(npm error: no network\); run it where there"):
        write_site(Bundle(small), tmp_path / "site")
