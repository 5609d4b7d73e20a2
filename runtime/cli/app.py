"""Frame of every command: what all share, exit codes, and errors in one line.

0 when done, 1 where something looked at is wrong or some inputs have no answer, 2 with one line for
a mistake, 130 after Ctrl-C, 129, 141 and 143 after SIGHUP, a reader that went away and SIGTERM. A
command is a function whose parameters are its options (typer).
"""

from __future__ import annotations

import codecs
import errno
import functools
import inspect
import io
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
import typer
from typer.exceptions import Exit, TyperException

from ..console import give_up_output, is_verbose, log_line, package_version, set_verbosity, write
from ..errors import IfmminError, InputError, OutputError, ParityError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_UNREAD = 141

Body = TypeVar("Body", bound=Callable[..., int | None])
"""A command's function; None is exit code 0."""


class Main(Protocol):
    """A command's entry point: arguments (default: the process's own) to exit code."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command."""
        ...


def _print_version(asked: bool) -> None:
    if asked:
        from ..bundle import shipped_licence  # numpy is slow to import

        write(f"ifmmin {package_version()}")
        write(shipped_licence())
        raise Exit


BundleOption = Annotated[
    Path | None,
    typer.Option(
        "--bundle", "-b", envvar="IFMMIN_BUNDLE", metavar="DIR",
        help="Directory written by ifmmin-export; default: the bundle that comes with ifmmin.",
    ),
]  # fmt: skip
_COMMON = {
    "verbose": Annotated[
        bool, typer.Option("--verbose", "-v", help="Say more, and show where errors come from.")
    ],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")],
    "version": Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print version and licence, and end.",
        ),
    ],
}
"""What every command takes besides its own."""


def require_bundle(bundle: Path | None) -> Path:
    """The bundle that was named, or the one that comes with the package."""
    if bundle is None:
        from ..bundle import shipped  # numpy is slow to import

        return shipped()
    return bundle


def require_known(option: str, given: Iterable[str] | None, known: Collection[str]) -> None:
    """InputError unless all that was given for a repeatable option is known."""
    for value in given or ():
        if value not in known:
            raise InputError(f"{option}: got {value!r}, wanted one of {', '.join(known)}")


def new_app(about: str | None = None, *examples: str, schema: type | None = None) -> typer.Typer:
    """An application for one command, or, where `about` says what it is, for several actions.

    examples: as of `command`. schema: struct whose JSON schema `--schema` prints, of an application
    with actions.
    """
    app = typer.Typer(
        help=about, epilog=_epilog(examples), rich_markup_mode="markdown",
        pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip
    if about is not None:

        def all_actions(**_: bool) -> None:
            pass

        kinds = {"version": _COMMON["version"]}
        if schema is not None:
            kinds["schema"] = Annotated[bool, schema_option(schema)]
        all_actions.__signature__ = inspect.Signature([_common(*kind) for kind in kinds.items()])  # type: ignore[attr-defined]
        all_actions.__annotations__ = dict(kinds)
        app.callback()(all_actions)
    return app


def command(app: typer.Typer, *examples: str, name: str | None = None) -> Callable[[Body], Body]:
    """Make a function a command of an application; its docstring is the help.

    examples: command lines that stand at the end of the help. name: of an action.
    """

    def add(body: Body) -> Body:
        signature = inspect.signature(body, eval_str=True)
        common = [_common(*kind) for kind in _COMMON.items()]

        @functools.wraps(body)
        def wrapped(
            *arguments: Any, verbose: bool, quiet: bool, version: bool, **options: Any
        ) -> int:
            set_verbosity(verbose=verbose, quiet=quiet)
            return guarded(functools.partial(body, *arguments, **options))

        parameters = [*signature.parameters.values(), *common]
        wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name, epilog=_epilog(examples))(wrapped)
        return body

    return add


def _epilog(examples: Sequence[str]) -> str | None:
    lines = "\n\n".join(f"    {line}" for line in examples)
    return f"Examples:\n\n{lines}" if examples else None


def entry_point(app: typer.Typer, name: str) -> Main:
    """What a console script calls: runs an application under the name of its command."""

    def main(arguments: Sequence[str] | None = None) -> int:
        set_verbosity()
        if sys.stderr is None:  # closed; a file that is opened would come to be in its place
            sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=_ESCAPE)
        try:
            if sys.stdout is None:
                raise OutputError("standard output is closed; lead it to a file, or to /dev/null")
            if sys.platform != "linux":
                raise IfmminError(
                    f"got the system {sys.platform}, wanted linux; run the commands of ifmmin on "
                    "Linux, in a container or a virtual machine (on Windows: WSL)"
                )
            given = list(sys.argv[1:] if arguments is None else arguments)
            # obj: the command line, for commands that write it into what they make.
            found = app(given, standalone_mode=False, prog_name=name, obj=[name, *given])
            return int(found or 0)
        except IfmminError as error:
            return _fail(error)
        except TyperException as error:
            text = " ".join(error.format_message().split()).rstrip(".")
            log_line(f"error: {text}; see {name} --help", "error")
            return EXIT_USER_ERROR
        except SystemExit as error:
            if error.code != 1:
                raise
            return EXIT_UNREAD  # so rich ends the program where the reader of --help has gone
        except OSError as error:  # likewise of --help; what commands write has a name
            if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO):
                raise
            give_up_output()
            return _fail(OutputError(f"cannot write to standard output: {error.strerror}"))

    return main


def _escape(error: UnicodeError) -> tuple[str, int]:
    """What an encoding has no character for, as JSON writes it: an answer is never lost for that,
    and stays JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


_ESCAPE = "ifmmin.escape"
codecs.register_error(_ESCAPE, _escape)


def guarded(body: Callable[[], int | None]) -> int:
    """Exit code of what a command does; other errors than the user's keep their traceback."""
    try:
        with _ended_by_signals():
            return body() or 0
    except IfmminError as error:
        return _fail(error)
    except FileNotFoundError as error:
        if error.filename is not None or "temporary directory" not in str(error):
            raise
        wanted = "let TMPDIR name a directory that can be written"
        return _fail(OutputError(f"there is no place for temporary files; {wanted}"))
    except KeyboardInterrupt:
        log_line("interrupted; nothing was left half written", "error")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_UNREAD  # the reader went away (`| head`)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does: what it began is closed or taken back.

    Those that are ignored, as after `nohup`, stay so. Only Python's main thread gets any.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in map(int, (signal.SIGTERM, signal.SIGHUP)):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, end_by_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_by_signal(number: int, frame: object = None) -> None:
    """Raise what ends a command: KeyboardInterrupt for SIGINT, SystemExit for others."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _fail(error: IfmminError) -> int:
    if is_verbose():
        log_line("".join(traceback.format_exception(error)).rstrip(), "error")
    if isinstance(error, ParityError) and error.table:
        log_line(error.table, "error")
    log_line(f"error: {' '.join(str(error).split())}", "error")
    return EXIT_USER_ERROR


def _common(name: str, kind: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)


def schema_option(of: type) -> Any:
    """An option `--schema` that prints the JSON schema of a struct and ends, as `--help` does.

    of: what the command writes as JSON.
    """

    def show(asked: bool) -> None:
        if asked:
            schema = msgspec.json.encode(msgspec.json.schema(of), order="deterministic")
            write(msgspec.json.format(schema).decode())
            raise Exit

    text = f"Print the JSON schema of the {of.__name__.lower()} and end."
    return typer.Option("--schema", callback=show, is_eager=True, help=text)
