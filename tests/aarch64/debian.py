"""Packages of Debian for any architecture, without root and without a change to the system.

apt gets lists, caches and sources of its own in a folder, and checks what it fetches by Debian's
signatures; Python and apt are all that is wanted:

    python tests/aarch64/debian.py FOLDER SUITE PACKAGE:ARCHITECTURE...
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org"
_CONFIGURATION = """\
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc "{folder}/etc";
APT::Architecture "{native}";
APT::Architectures {{ "{native}"; "arm64"; }};
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
"""


class UnavailableError(Exception):
    """Why something cannot be had here, in one line."""


def fetch(folder: Path, suite: str, packages: Sequence[str]) -> list[Path]:
    """Packages, written `name:architecture`, as files in `folder/debs`. Raises UnavailableError."""
    for tool in ("apt-get", "dpkg", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"packages of Debian are fetched by apt, and there is no {tool}")
    if not KEYRING.is_file():
        raise UnavailableError(f"packages are checked by Debian's keys, and there is no {KEYRING}")
    env = {**os.environ, "APT_CONFIG": str(_configure(folder.resolve(), suite)), "LC_ALL": "C"}
    debs = folder / "debs"
    shutil.rmtree(debs, ignore_errors=True)
    debs.mkdir()
    for words in (["update", "-o", "APT::Update::Error-Mode=any"], ["download", *packages]):
        ran = subprocess.run(
            ["apt-get", "--quiet", *words], cwd=debs, env=env, capture_output=True, text=True
        )
        if ran.returncode:
            told = [line for line in ran.stderr.splitlines() if line.startswith("E:")]
            raise UnavailableError(f"apt-get {words[0]}: {(told or ['it failed'])[0]}")
    found = sorted(debs.glob("*.deb"))
    if len(found) != len(packages):
        raise UnavailableError(f"apt-get download left {len(found)} of {len(packages)} packages")
    return found


def _configure(folder: Path, suite: str) -> Path:
    for name in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d",
                 "etc/preferences.d", "etc/sources.list.d"):  # fmt: skip
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    (folder / "etc" / "sources.list").write_text(
        f"deb [signed-by={KEYRING}] {MIRROR}/debian {suite} main\n"
        f"deb [signed-by={KEYRING}] {MIRROR}/debian-security {suite}-security main\n"
    )
    path = folder / "apt.conf"
    path.write_text(_CONFIGURATION.format(folder=folder, native=native()))
    return path


def native() -> str:
    """Debian's name of this machine's architecture."""
    ran = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True)
    return ran.stdout.strip()


def unpack(package: Path, folder: Path) -> None:
    """The files of a package, below a folder."""
    subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)


def main(arguments: Sequence[str]) -> int:
    """Unpack packages into FOLDER; exit code 2 with one line where they cannot be had."""
    folder = Path(arguments[0])
    try:
        for package in fetch(folder / "apt", arguments[1], arguments[2:]):
            unpack(package, folder)
    except UnavailableError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
