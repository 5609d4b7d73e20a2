"""Silence: no command calls anybody, looks up a name, or writes but where it was told to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from run_command import arrays, event, frames
from small_recipe import TINY

_CALLS = (
    "connect,sendto,sendmsg,sendmmsg,bind,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,"
    "link,linkat,symlink,symlinkat"
)
_STRACE = (
    "strace", "-f", "--seccomp-bpf", "-qq", "-y", "-s", "512", "-e", f"trace={_CALLS}",
    "-e", "signal=none", "-o",
)  # fmt: skip
_ADDRESS = re.compile(r'inet_addr\("([^"]*)"\)|inet_pton\(AF_INET6, "([^"]*)"')
_DNS = "_port=htons(53)"


@pytest.fixture(scope="module")
def strace() -> None:
    """Skips where processes cannot be watched."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    tried = subprocess.run(
        [*_STRACE, os.devnull, sys.executable, "-S", "-c", ""], capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"strace cannot watch a process here: {tried.stderr.strip()}")


def _watch(folder: Path, *words: object) -> list[str]:
    """What a command with a home of its own does that it should not do."""
    home, places = folder / "home", {name: folder / name for name in ("out", "cache", "tmp")}
    for path in (home, *places.values()):
        path.mkdir()
    own = {
        "HOME": home, "IFMMIN_CACHE": places["cache"], "TMPDIR": places["tmp"],
        "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"],
    }  # fmt: skip
    record = folder / "record"
    done = subprocess.run(
        [*_STRACE, str(record), sys.executable, *map(str, words)], cwd=places["out"], text=True,
        env={name: str(value) for name, value in own.items()}, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return _judge(record.read_text(errors="replace"), tuple(map(str, places.values())))


def _judge(record: str, allowed: tuple[str, ...]) -> list[str]:
    begun: dict[str, str] = {}
    found = []
    for line in record.splitlines():
        process, text = line.split(maxsplit=1)
        if text.endswith("<unfinished ...>"):
            begun[process] = text.removesuffix("<unfinished ...>")
            continue
        if text.startswith("<... "):
            text = begun.pop(process, "") + text.partition(" resumed>")[2]
        written = _written(text, allowed[0])
        if _is_foreign(text) or not all(_is_ours(path, allowed) for path in written):
            found.append(text)
    return found


def _is_foreign(text: str) -> bool:
    """Whether a call has an address but that of this machine's loopback."""
    addresses = [first or second for first, second in _ADDRESS.findall(text)]
    return _DNS in text or not all(a == "::1" or a.startswith("127.") for a in addresses)


def _written(text: str, start: str) -> list[str]:
    """Paths that a call opened for writing, or made. start: where the command ran."""
    name, _, rest = text.partition("(")
    if re.search(r"= -1 \w+ \([^)]*\)$", text):
        return []
    if name.startswith("open"):
        writes = re.search(r"O_WRONLY|O_RDWR|O_CREAT", rest)
        opened = re.search(r"= \d+<(.*)>$", text)
        return [opened.group(1)] if writes and opened else []
    if name in ("connect", "sendto", "sendmsg", "sendmmsg", "bind"):
        return []
    folders, paths = re.findall(r"<([^>]*)>", rest), re.findall(r'"([^"]*)"', rest)
    return [str(Path(folders[-1] if folders else start, paths[-1]))]


def _is_ours(path: str, allowed: tuple[str, ...]) -> bool:
    return path.startswith((*allowed, "/dev/", "/proc/")) or ":[" in path


_LOUD = """
import socket, pathlib
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 53))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9))
(pathlib.Path.home() / "folder").mkdir()
(pathlib.Path.home() / "file").write_text("")
pathlib.Path("file").write_text("")
"""


def test_what_is_loud_is_heard(tmp_path: Path, strace: None) -> None:
    assert [text.partition("(")[0] for text in _watch(tmp_path, "-c", _LOUD)] == [
        "connect", "connect", "mkdir", "openat",
    ]  # fmt: skip


_WORDS: dict[str, tuple[str, ...]] = {
    "ifmmin": ("runtime.cli.commands",),
    "run": ("runtime.cli.run", "-b", "BUNDLE", "INPUT.npz"),
    "signals": ("runtime.cli.run", "RECORDINGS", "--plot", "plot.png"),
    "words": ("runtime.cli.run", "--text", "I am fine."),
    "extract": ("train.cli", "extract", "TABLE", "--out", "corpus", "--jobs", "2"),
    "stream": ("runtime.cli.run", "-b", "BUNDLE", "--stream", "INPUT.jsonl"),
    "doctor": ("runtime.doctor.cli", "-b", "BUNDLE"),
    "verify": ("export.bundle_cli", "verify", "-b", "BUNDLE"),
    "export": ("export.cli", "CHECKPOINT", "--pattern", "a", "--allow-loss", "logits=1", "-o", "b"),
    "inspect": ("train.cli", "inspect", "--recipe", "synthetic"),
    "fit": ("train.cli", "fit", *TINY, "--out", "run"),
    "bench": (
        "benchmarks.cli", "run", "-b", "BUNDLE", "--scenario", "latency", "--pattern", "a",
        "--rounds", "2", "--seconds", "0.5", "--quick",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _WORDS)
def test_commands_are_silent(
    name: str, tmp_path: Path, root: Path, make_bundle: Callable[..., Path], strace: None
) -> None:
    bundle = make_bundle(("a",), shapes=("latency", "stream"))
    np.savez(tmp_path / "input.npz", **arrays("a"))  # type: ignore[arg-type]
    (tmp_path / "input.jsonl").write_text(event("push", a=frames("a", 9)) + "\n")
    recordings, table = root / "examples" / "recordings", tmp_path / "table.csv"
    rows = [
        f"{label}{n},{recordings / label}.wav,fine,{label},speaker {n}"
        for label in ("angry", "sad") for n in range(3)
    ]  # fmt: skip
    table.write_text("\n".join(["id,sound,text,label,speaker", *rows]) + "\n")
    real = {
        "BUNDLE": bundle, "CHECKPOINT": bundle.parent / "model.safetensors",
        "INPUT.npz": tmp_path / "input.npz", "INPUT.jsonl": tmp_path / "input.jsonl",
        "RECORDINGS": recordings, "TABLE": table,
    }  # fmt: skip
    module, *words = _WORDS[name]
    found = _watch(tmp_path, "-m", f"ifmmin.{module}", *(real.get(word, word) for word in words))
    assert found == []
