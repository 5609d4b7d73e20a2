"""Commands inside the test's own process; `ifmmin-run` also in one that is spoken to."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.cli.run import main

Main = Callable[[list[str]], int]
SHAPES = {"a": (9, 5), "v": (4, 7), "t": (6, 11)}
BACKEND = ("--backend", "onnxruntime-cpu")


def run_bundle(make_bundle: Callable[..., Path]) -> Path:
    """To be made a fixture: a bundle of the patterns a, v, a_v, a_t, not to be changed."""
    return make_bundle(("a", "v", "a_v", "a_t"), shapes=("latency",))


def arrays(letters: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Random features that the bundle takes."""
    rng = np.random.default_rng(seed)
    return {m: rng.standard_normal(SHAPES[m]).astype(np.float32) for m in letters}


def line(letters: str, seed: int = 0, **more: object) -> str:
    """The same features as a line of JSON."""
    features = {m: x.tolist() for m, x in arrays(letters, seed).items()}
    return json.dumps(features | more)


def npz(path: Path, **features: np.ndarray) -> Path:
    """Write features as .npz."""
    np.savez(path, **features)  # type: ignore[arg-type]
    return path


@dataclass(frozen=True)
class Ran:
    """What a call of the command left."""

    code: int
    out: str
    err: str

    @property
    def answers(self) -> list[dict[str, Any]]:
        """The lines of JSON."""
        return [json.loads(text) for text in self.out.splitlines()]


def call(main: Main, *words: object, stdin: Iterable[str] | bytes = b"") -> Ran:
    """Call a command; a traceback of it is the test's."""
    content = stdin if isinstance(stdin, bytes) else "".join(f"{x}\n" for x in stdin).encode()
    out, err, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(content))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(word) for word in words])
    finally:
        sys.stdin = before
    return Ran(code, out.getvalue(), err.getvalue())


def mistake(main: Main, *words: object) -> str:
    """The one line by which a command says what its user got wrong, below what else it says."""
    ran = call(main, *words)
    *before, last = ran.err.splitlines()
    assert (ran.code, ran.out) == (2, ""), ran
    assert last.startswith("error: ")
    assert not [text for text in before if text.startswith(("error", "Traceback"))]
    return last


def run(bundle: object, *words: object, stdin: Iterable[str] | bytes = b"") -> Ran:
    """Call `ifmmin-run`."""
    return call(main, "-b", bundle, *words, *BACKEND, stdin=stdin)


def refused(bundle: object, *words: object, stdin: Iterable[str] = ()) -> str:
    """What `ifmmin-run` says of a mistake, which is all that it says."""
    ran = run(bundle, *words, stdin=stdin)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran
    assert ran.err.startswith("error: ")
    return ran.err


def run_python(script: str, *words: object, without: Sequence[str] = (), **more: Any) -> Ran:
    """Run a script in an interpreter of its own, where some modules cannot be imported and a
    warning is an error. more: options of `subprocess.run`."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({tuple(without)}))\n"
    command = [sys.executable, "-W", "error", "-c", hide + script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **more)
    return Ran(done.returncode, done.stdout, done.stderr)


def run_documented(root: Path, folder: Path, fence: str) -> subprocess.CompletedProcess[str]:
    """Run, in a folder, the commands of docs/run.md in blocks of a kind; the first that fails
    ends it."""
    page = (root / "docs" / "run.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{fence}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    if fence == "sh":
        blocks += re.findall(r"^\$ (.*)$", page, re.MULTILINE)
    assert blocks
    function = f'ifmmin-run() {{ "{sys.executable}" -m ifmmin.runtime.cli.run "$@"; }}'
    return subprocess.run(
        ["bash", "-c", "\n".join(["set -e", function, *blocks])], cwd=folder, capture_output=True,
        text=True,
    )  # fmt: skip


DIMS = {"a": 5, "v": 7, "t": 11}
_SECONDS = 60
"""After which a process that says nothing is ended, and the test fails."""


def frames(letter: str, count: int, seed: int = 0) -> list[list[float]]:
    """Random frames that the small networks take."""
    rng = np.random.default_rng([ord(letter), seed])
    drawn = (2 * rng.standard_normal((count, DIMS[letter]))).astype(np.float32)
    return [[float(x) for x in frame] for frame in drawn]


def noise(letter: str, count: int = 20, seed: int = 0) -> NDArray[np.float32]:
    """Other random frames (N, D), as an array."""
    rng = np.random.default_rng((seed, ord(letter)))
    return rng.standard_normal((count, DIMS[letter])).astype(np.float32)


def event(kind: str, **fields: object) -> str:
    """A line."""
    return json.dumps({"event": kind, **fields})


@dataclass
class Conversation:
    """A running command."""

    process: subprocess.Popen[str]

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and wait for its answer."""
        self.send(line)
        return self.hear()

    def send(self, line: str) -> None:
        """Send a line."""
        self._stdin.write(line + "\n")
        self._stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Wait for an answer."""
        assert self.process.stdout
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> tuple[int, str, str]:
        """Close standard input; the exit code and what else was said."""
        out, err = self.process.communicate(timeout=_SECONDS)
        return self.process.returncode, out, err

    def turn_away(self, line: str = "") -> tuple[int, str]:
        """Read no more, but send a line; the exit code, and what else was said."""
        assert self.process.stdout
        assert self.process.stderr
        self.process.stdout.close()
        if line:
            self.send(line)
        error = self.process.stderr.read()
        return self.process.wait(_SECONDS), error

    @property
    def _stdin(self) -> IO[str]:
        assert self.process.stdin
        return self.process.stdin


def command(bundle: Path, *words: object) -> Sequence[str]:
    """The command line of a process."""
    start = [sys.executable, "-m", "ifmmin.runtime.cli.run", "-b", str(bundle)]
    return [*start, *map(str, words), *BACKEND]


STREAM = ("--stream", "-")


@contextmanager
def conversation(
    bundle: Path, *options: object, inputs: Sequence[object] = STREAM
) -> Iterator[Conversation]:
    """Start the command; it is ended with the block, or when it says nothing for too long."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    words = command(bundle, *inputs, *options)
    with subprocess.Popen(words, **pipes, text=True, encoding="utf-8") as process:
        watchdog = threading.Timer(_SECONDS, process.kill)
        watchdog.start()
        try:
            yield Conversation(process)
        finally:
            watchdog.cancel()
            process.kill()
