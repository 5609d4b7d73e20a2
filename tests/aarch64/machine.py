"""An aarch64 machine in a folder: Debian's Python, the runtime's wheels, and qemu to run them.

Nothing is installed and root is not wanted. What was fetched stays in the folder; packages and
wheels are compared with their hashes each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debian import UnavailableError, fetch, unpack

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).resolve().parents[2]
SUITE, PYTHON = "bookworm", "3.11"
CPU = "cortex-a76"
"""Has dot products of bytes, as Orin's Cortex-A78AE has."""
ONNXRUNTIME = "1.23.2"
"""The newest known to run under qemu 7.2; 1.32.0 crashes there as it is imported."""
PACKAGES = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libstdc++6",
    "libgcc-s1", "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libuuid1",
    "libsqlite3-0",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_WRAPPER = """\
#!/bin/sh
exec "{qemu}" -cpu {cpu} -L "{root}" -0 "$0" "{root}/usr/bin/python{python}" "$@"
"""


@dataclass(frozen=True)
class Machine:
    """Where Python for aarch64 is, and of what it is made."""

    python: Path
    """To be started as any other."""
    site: Path
    """Installed wheels."""
    versions: dict[str, str]
    """Of packages and wheels, by name."""

    @property
    def env(self) -> dict[str, str]:
        """What Python is to find: this checkout, and the wheels."""
        return {
            **os.environ, "PYTHONPATH": f"{ROOT / '.src'}:{self.site}", "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1",
        }  # fmt: skip


def prepare(folder: Path) -> Machine:
    """The machine in a folder, fetched where it is not there yet. Raises UnavailableError."""
    if platform.machine() != "x86_64":
        raise UnavailableError(
            f"an aarch64 is emulated on x86-64, and this is {platform.machine()}"
        )
    note = folder / "made.json"
    if not note.is_file() or json.loads(note.read_text())["wanted"] != wanted():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        versions = {**_packages(folder), **_install(folder)}
        kept = [*(folder / "apt" / "debs").iterdir(), *(folder / "wheels").iterdir()]
        hashes = {str(path.relative_to(folder)): _hash(path) for path in sorted(kept)}
        content = {"wanted": wanted(), "versions": versions, "sha256": hashes}
        note.write_text(json.dumps(content, indent=1))
    made = json.loads(note.read_text())
    for name, sha256 in made["sha256"].items():
        if not (folder / name).is_file() or _hash(folder / name) != sha256:
            raise SystemExit(
                f"error: {folder / name} is not what was fetched; remove {folder} and try again"
            )
    return Machine(_python(folder), folder / "site", made["versions"])


def wanted() -> dict[str, Any]:
    """What a folder is made of; one that was made of something else is made anew."""
    return {"packages": [*PACKAGES], "wheels": _wheels(), "suite": SUITE}


def _wheels() -> list[str]:
    """What the runtime needs, with the ONNX Runtime that runs under qemu."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], f"onnxruntime=={ONNXRUNTIME}"]


def _packages(folder: Path) -> dict[str, str]:
    emulated = [f"{name}:arm64" for name in PACKAGES]
    debs = fetch(folder / "apt", SUITE, ["qemu-user-static:amd64", *emulated])
    for deb in debs:
        name = deb.name.partition("_")[0]
        unpack(deb, folder / ("emulator" if name == "qemu-user-static" else "root"))
    for path in (folder / "emulator" / "usr" / "bin").iterdir():
        if path.name != "qemu-aarch64-static":
            path.unlink()  # some 350 MB
    told = (deb.name.split("_")[:2] for deb in debs)
    return {name: version.replace("%3a", ":") for name, version in told}


def _install(folder: Path) -> dict[str, str]:
    """Wheels from the index that pip knows, which tells their hashes; then of those alone."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    target = ["--python-version", PYTHON, "--only-binary=:all:", *platforms, *_wheels()]
    wheels, site, report = folder / "wheels", folder / "site", folder / "report.json"
    steps: tuple[list[str | Path], ...] = (
        ["download", "--dest", wheels, *target],
        ["install", "--no-index", "--find-links", wheels, "--target", site, "--report", report,
         *target],
    )  # fmt: skip
    for words in steps:
        ran = subprocess.run([*pip, *words], capture_output=True, text=True)
        if ran.returncode:
            told = [line for line in ran.stderr.splitlines() if line.startswith("ERROR")]
            raise UnavailableError(f"pip {words[0]}: {(told or ['it failed'])[-1]}")
    installed: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return {one["metadata"]["name"]: one["metadata"]["version"] for one in installed}


def _python(folder: Path) -> Path:
    """A script beside Python, which Python takes for itself and starts processes of its own by."""
    root = (folder / "root").resolve()
    qemu = (folder / "emulator" / "usr" / "bin" / "qemu-aarch64-static").resolve()
    script = root / "usr" / "bin" / "python"
    script.write_text(_WRAPPER.format(qemu=qemu, cpu=CPU, root=root, python=PYTHON))
    script.chmod(0o755)
    return script


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
