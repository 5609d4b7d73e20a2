"""The commit that the running code is of."""

from __future__ import annotations

from pathlib import Path

from ifmmin.benchmarks.device.facts import Revision
from ifmmin.runtime.doctor.host import Host

_HERE = Path(__file__).resolve()


def find_revision(machine: Host, file: Path = _HERE) -> Revision | None:
    """None outside of a checkout, also where somebody else's checkout has an installed copy in it.

    file: code whose commit is asked for. A file that git does not know yet changes nothing.
    """
    git = ("git", "--no-optional-locks", "-C", str(file.parent))
    # Prints the name of a file that git has; an installed copy in a virtual environment it has not.
    if not machine.run(*git, "ls-files", "--error-unmatch", file.name).strip():
        return None
    commit = machine.run(*git, "rev-parse", "HEAD").strip()
    changes = machine.run(*git, "status", "--porcelain", "--untracked-files=no", ":/")
    return Revision(commit=commit, changed=bool(changes.strip())) if commit else None
