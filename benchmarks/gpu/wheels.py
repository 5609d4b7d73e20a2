"""Wheels of a GPU day: a folder to install from without internet, and its list of hashes.

The list is a file of requirements, so that pip takes nothing from the folder but what it names.
Runs before anything is installed, by Python alone:

    python benchmarks/gpu/wheels.py list gpu-wheels
    python benchmarks/gpu/wheels.py check gpu-wheels
"""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

LIST = "requirements.txt"
_LINE = re.compile(r"(?P<name>[\w.-]+)==(?P<version>\S+) --hash=sha256:(?P<hash>[0-9a-f]{64})")
_AGAIN = "run make gpu-wheels where there is internet, and copy the folder anew"


class WheelError(Exception):
    """A folder that cannot be installed from: got, wanted, and what to do."""


def here() -> str:
    """For what wheels are: `3.11 on x86_64`."""
    return f"{'.'.join(platform.python_version_tuple()[:2])} on {platform.machine()}"


def write_list(folder: Path) -> int:
    """Name every wheel of a folder with its hash; how many there are."""
    lines = [f"# Python {here()}"]
    for wheel in sorted(folder.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{name}=={version} --hash=sha256:{_hash(wheel)}")
    if len(lines) == 1:
        raise WheelError(f"{folder} has no wheel, at least one was wanted; {_AGAIN}")
    (folder / LIST).write_text("\n".join(lines) + "\n")
    return len(lines) - 1


def check(folder: Path) -> int:
    """How many wheels there are, each as it was listed. Raises WheelError."""
    try:
        lines = (folder / LIST).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise WheelError(f"{folder / LIST} cannot be read ({error}); {_AGAIN}") from error
    if not lines:
        raise WheelError(f"{folder / LIST} is empty and names no Python; {_AGAIN}")
    first, *lines = lines
    if first != f"# Python {here()}":
        raise WheelError(
            f"{folder} is for {first.removeprefix('# ')}, this is Python {here()}; give that "
            "Python by make gpu PYTHON=..., or collect wheels for this one"
        )
    for line in lines:
        wanted = _LINE.fullmatch(line)
        if wanted is None:
            raise WheelError(
                f"{folder / LIST} has a line {line[:80]!r}, which names no wheel; {_AGAIN}"
            )
        found = sorted(folder.glob(f"{wanted['name']}-{wanted['version']}-*.whl"))
        if not found:
            raise WheelError(f"{folder} has no {wanted['name']} {wanted['version']}; {_AGAIN}")
        for wheel in found:
            if (got := _hash(wheel)) != wanted["hash"]:
                listed = wanted["hash"]
                raise WheelError(
                    f"{wheel} has sha256 {got[:12]}..., its list has {listed[:12]}...; {_AGAIN}"
                )
    return len(lines)


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def main(arguments: Sequence[str]) -> int:
    """Exit code 2 with one line where the folder is not what it should be."""
    action, folder = arguments
    try:
        count = {"list": write_list, "check": check}[action](Path(folder))
    except WheelError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stderr.write(f"{folder}: {count} wheels\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
