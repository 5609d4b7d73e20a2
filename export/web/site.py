"""Site: the page, the module for browsers, the graphs of a bundle and ONNX Runtime Web."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from importlib.resources import files as resources
from pathlib import Path

import msgspec

from ifmmin.runtime.bundle import MANIFEST_NAME, Bundle, Manifest, ModalitySpec
from ifmmin.runtime.errors import BundleError, InputError, OutputError
from ifmmin.runtime.files import atomic_directory, read_regular
from ifmmin.runtime.frontends.spec import reader_of
from ifmmin.runtime.modality import Modality

VERSION = "1.30.0"
"""Of onnxruntime-web (MIT)."""
_RUNTIME = {
    "ort.wasm.bundle.min.js": (
        "dist/ort.wasm.bundle.min.mjs",
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    "ort-wasm-simd-threaded.wasm": (
        "dist/ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}
"""Of the folder onnxruntime: member of its package, sha256. Many servers know no `.mjs`."""
_PACKAGE_BYTES = 1 << 28
_MODULE = ("errors.js", "ifmmin.js", "service-worker.js", "sound.js", "stream.js", "words.js")
_PAGE = ("engines.js", "icon.svg", "index.html", "page.css", "page.js")
_LIST, _WORKER = "files.json", "service-worker.js"
_SHAPES = ("latency", "step", "summary", "head")
_HEARD = {Modality.A: ("ge2e",), Modality.T: ("minilm", "bert")}
"""Front-ends that the module has."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; base-uri 'none'; form-action 'none'"
)
"""WebAssembly counts as a script that is made, which 'self' alone refuses."""


def write_site(
    bundle: Bundle, out: Path, *, words: bool = False, package: Path | None = None
) -> dict[str, int]:
    """Write a folder for any server of files; bytes of all files by name.

    words: with the front-end for words, and the graphs that take them. package: of npm,
    onnxruntime-web-1.30.0.tgz; None: npm is asked for it. Raises BundleError, InputError,
    OutputError.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / _LIST).is_file():
        raise OutputError(f"{out} holds other things; name a new directory")
    manifest = reduced(bundle.manifest, words=words)
    contents = _bundle_files(bundle, manifest) | _runtime_files(package) | _module_files()
    worker = contents.pop(_WORKER)
    listed = {name: _sha256(content) for name, content in sorted(contents.items())}
    content = json.dumps(listed, indent=0).encode()
    contents[_LIST] = content
    # A browser looks for a change of this script, and takes all files anew.
    contents[_WORKER] = worker.replace(b"@FILES@", _sha256(content).encode())
    with atomic_directory(out) as folder:
        for name, content in contents.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    return {name: len(content) for name, content in contents.items()}


def reduced(manifest: Manifest, *, words: bool) -> Manifest:
    """The manifest of what a browser can use: float32 graphs of one utterance and of streams.

    Words are left out unless asked for; a modality whose front-end no browser runs has none.
    Raises BundleError where nothing is left.
    """
    left_out = set() if words or not _is_read(manifest) else {Modality.T}
    specs = {
        m: msgspec.structs.replace(spec, frontend=spec.frontend if _is_heard(m, spec) else None)
        for m, spec in manifest.modalities.items()
        if m not in left_out
    }
    graphs = tuple(
        entry
        for entry in manifest.graphs
        if entry.shape in _SHAPES and entry.precision == "fp32"
        and entry.recurrence in ("none", "lstm")
        and not {m.value for m in left_out} & set(entry.subject.split("_"))
    )  # fmt: skip
    if not any(entry.shape == "latency" for entry in graphs):
        raise BundleError(
            "the bundle has no float32 graph of whole utterances that a browser can be given"
            f"{'; words are left out, see --words' if left_out else ''}; export some"
        )
    return msgspec.structs.replace(manifest, modalities=specs, graphs=graphs, engines=())


def _is_heard(modality: Modality, spec: ModalitySpec) -> bool:
    front = spec.frontend
    return front is not None and front.kind in _HEARD.get(modality, ()) and front.version == 1


def _is_read(manifest: Manifest) -> bool:
    spec = manifest.modalities.get(Modality.T)
    return spec is not None and _is_heard(Modality.T, spec)


def _bundle_files(bundle: Bundle, manifest: Manifest) -> dict[str, bytes]:
    contents = {MANIFEST_NAME: manifest.to_json().encode()}
    contents |= {entry.file: bundle.graph(entry) for entry in manifest.graphs}
    read = reader_of(bundle.directory)
    for spec in manifest.modalities.values():
        files = spec.frontend.files.values() if spec.frontend else ()
        contents |= {entry.file: read(entry) for entry in files}
    card = bundle.directory / "README.md"
    if card.is_file():
        contents[card.name] = read_regular(card, BundleError)
    return {f"bundle/{name}": content for name, content in contents.items()}


def _runtime_files(package: Path | None) -> dict[str, bytes]:
    """ONNX Runtime Web's, each with the hash that it had when this was tested."""
    content = _package() if package is None else _read(package)
    contents = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as members:
            for name, (member, _) in _RUNTIME.items():
                found = members.extractfile(f"package/{member}")
                contents[name] = b"" if found is None else found.read()
    except (tarfile.TarError, OSError, EOFError, KeyError) as error:
        raise InputError(
            f"{package} is not the package onnxruntime-web ({error}); get it by {_COMMAND}"
        ) from error
    for name, (member, wanted) in _RUNTIME.items():
        if (digest := _sha256(contents[name])) != wanted:
            raise InputError(
                f"onnxruntime-web: {member} has the sha256 {digest}, wanted {wanted} of version "
                f"{VERSION}; get it by {_COMMAND}"
            )
    return {f"onnxruntime/{name}": content for name, content in contents.items()}


_COMMAND = f"npm pack onnxruntime-web@{VERSION}"


def _package() -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            f"npm, from which onnxruntime-web comes, is not installed; run {_COMMAND} where it is, "
            "and give the file with --onnxruntime-web"
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, *_COMMAND.split()[1:], "--silent"]
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        packed = [*Path(folder).glob("*.tgz")]
        if ran.returncode or not packed:
            told = ran.stderr.strip().splitlines() or ["it said nothing"]
            raise InputError(
                f"{_COMMAND} failed ({told[-1]}); run it where there is a network, "
                "and give the file with --onnxruntime-web"
            )
        return _read(packed[0])


def _read(package: Path) -> bytes:
    try:
        return read_regular(package, InputError, _PACKAGE_BYTES)
    except OSError as error:
        raise InputError(f"{package} cannot be read: {error.strerror}") from error


def _module_files() -> dict[str, bytes]:
    """Ours: the module as it is, and the page with another engine."""
    here, page = Path(__file__).parent, resources("ifmmin.runtime.server") / "page"
    contents = {name: (here / name).read_bytes() for name in _MODULE}
    contents |= {name: (page / name).read_bytes() for name in _PAGE}
    text = contents["index.html"].decode()
    for name in ("engines.js", "page.js", "page.css"):
        text = text.replace(f'"{name}"', f'"{name}" integrity="{_integrity(contents[name])}"')
    marks = {
        '<html lang="en">': '<html lang="en" data-engine="browser">',
        '<meta charset="utf-8">': '<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
    }  # fmt: skip
    for mark, other in marks.items():
        assert mark in text
        text = text.replace(mark, other)
    contents["index.html"] = text.encode()
    return contents


def _integrity(content: bytes) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
