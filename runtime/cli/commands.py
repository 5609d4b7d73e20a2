"""Commands of ifmmin: what each is for, what it needs, and `ifmmin`, which lists them.

Console scripts start here, so that one whose extra is not installed ends in a line that says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec

from ..console import log_line, print_table
from .app import EXIT_USER_ERROR, Main, command, entry_point, new_app


@dataclass(frozen=True)
class CommandSpec:
    """One command."""

    name: str
    module: str
    purpose: str
    extra: str = ""
    """Of pip, that brings what it needs; empty: nothing but ifmmin."""
    needs: tuple[str, ...] = ()
    """Packages without which it cannot start."""

    def missing(self) -> list[str]:
        """Those of its packages that are not installed."""
        return [package for package in self.needs if find_spec(package) is None]


COMMANDS = (
    CommandSpec("ifmmin-run", "ifmmin.runtime.cli.run", "recognise emotion", "cpu"),
    CommandSpec(
        "ifmmin-serve", "ifmmin.runtime.server.cli", "answer over the network", "serve",
        ("grpc", "httptools", "prometheus_client", "starlette", "uvicorn", "uvloop", "websockets"),
    ),
    CommandSpec("ifmmin-doctor", "ifmmin.runtime.doctor.cli", "say what runs here, and cures"),
    CommandSpec("ifmmin-bundle", "ifmmin.export.bundle_cli", "verify or show a bundle", "cpu"),
    CommandSpec(
        "ifmmin-train", "ifmmin.train.cli", "train, evaluate and compare networks", "train",
        ("torch", "h5py", "matplotlib", "yaml", "sklearn", "scipy", "filelock"),
    ),
    CommandSpec(
        "ifmmin-export", "ifmmin.export.cli", "export a checkpoint as a bundle", "export",
        ("torch", "h5py", "matplotlib", "yaml", "sklearn", "scipy", "filelock", "jinja2", "onnx",
         "onnx_ir", "onnxruntime"),
    ),
    CommandSpec(
        "ifmmin-bench", "ifmmin.benchmarks.cli", "measure a bundle beside its peers", "bench",
        ("psutil", "matplotlib", "jinja2"),
    ),
)  # fmt: skip

app = new_app()


@command(app, "ifmmin", "ifmmin-run --help")
def commands() -> None:
    """List the commands and what each needs."""
    print_table(
        ["command", "what for", "needs", "here"],
        [
            [spec.name, spec.purpose, f"ifmmin[{spec.extra}]" if spec.extra else "ifmmin",
             f"lacks {', '.join(missing)}" if (missing := spec.missing()) else "ready"]
            for spec in COMMANDS
        ],
    )  # fmt: skip


main = entry_point(app, "ifmmin")


def run_command(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command by name; one line and exit code 2 where its extra is not installed."""
    (spec,) = [one for one in COMMANDS if one.name == name]
    if missing := spec.missing():
        log_line(
            f"error: {name} needs {', '.join(missing)}, not installed here; "
            f"run pip install 'ifmmin[{spec.extra}]'",
            "error",
        )
        return EXIT_USER_ERROR
    found: Main = import_module(spec.module).main
    return found(arguments)


run: Callable[[], int] = partial(run_command, "ifmmin-run")
serve: Callable[[], int] = partial(run_command, "ifmmin-serve")
doctor: Callable[[], int] = partial(run_command, "ifmmin-doctor")
bundle: Callable[[], int] = partial(run_command, "ifmmin-bundle")
train: Callable[[], int] = partial(run_command, "ifmmin-train")
export: Callable[[], int] = partial(run_command, "ifmmin-export")
bench: Callable[[], int] = partial(run_command, "ifmmin-bench")

if __name__ == "__main__":
    sys.exit(main())
