"""Commands from start to exit code: 0 when done, 2 with a line for a mistake, 130 after Ctrl-C."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from ifmmin.runtime.console import say
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
