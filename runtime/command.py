"""Commands from start to exit code: 0 when done, 2 with a line for a mistake, 130 after Ctrl-C."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from ifmmin.runtime.console import say, write
from ifmmin.runtime.errors import IfmminError, ParityError
from ifmmin.runtime.version import package_version


class Main(Protocol):
    """A command's entry point: arguments (default: the process's own) to exit code."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command."""
        ...


Body = Callable[[Sequence[str] | None], int]

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def command(body: Body) -> Main:
    """Wrap a command's body; user errors become one line, other exceptions keep their traceback."""

    @functools.wraps(body)
    def main(arguments: Sequence[str] | None = None) -> int:
        try:
            if sys.platform != "linux":
                raise IfmminError(
                    f"got the system {sys.platform}, wanted linux; run the commands of ifmmin on "
                    "Linux, in a container or a virtual machine (on Windows: WSL)"
                )
            return body(arguments)
        except IfmminError as error:
            if isinstance(error, ParityError) and error.table:
                say(error.table)
            say(f"error: {' '.join(str(error).split())}")
            return EXIT_USER_ERROR
        except KeyboardInterrupt:
            say("interrupted; nothing was left half written")
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            # The reader went away (`| head`); standard output must not be flushed again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE

    return main


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """An argument parser with `--version`, the same for every command."""
    made = argparse.ArgumentParser(prog=name, description=description)
    made.add_argument("--version", action="version", version=f"%(prog)s {package_version()}")
    return made


def add_schema(cli: argparse.ArgumentParser, of: type, what: str) -> None:
    """An option `--schema` that prints the JSON schema of a struct and ends, as `--help` does.

    of: what the command writes as JSON. what: its name for the help.
    """

    class PrintSchema(argparse.Action):
        def __call__(self, *_: Any) -> None:
            schema = msgspec.json.encode(msgspec.json.schema(of), order="deterministic")
            write(msgspec.json.format(schema).decode())
            cli.exit()

    cli.add_argument(
        "--schema", action=PrintSchema, nargs=0, help=f"print the JSON schema of {what} and end"
    )
