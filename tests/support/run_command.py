"""`ifmmin-run` inside the test's own process, with a tiny bundle and inputs for it."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundles import small_bundle

from ifmmin.runtime.cli import main

SHAPES = {"a": (9, 5), "v": (4, 7), "t": (6, 11)}
BACKEND = ("--backend", "onnxruntime-cpu")


def run_bundle(make_network: Callable[..., Any], factory: pytest.TempPathFactory) -> Path:
    """A bundle of the patterns a, v, a_v, a_t; made once, not to be changed."""
    return small_bundle(make_network, factory, ("a", "v", "a_v", "a_t"), shapes=("latency",))


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


def run(*arguments: object, stdin: Iterable[str] | bytes = b"") -> Ran:
    """Call the command; a traceback of it is the test's."""
    content = stdin if isinstance(stdin, bytes) else "".join(f"{x}\n" for x in stdin).encode()
    out, err, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(content))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*map(str, arguments), *BACKEND])
    finally:
        sys.stdin = before
    return Ran(code, out.getvalue(), err.getvalue())
