"""The module of `ifmmin-bundle web`, called in a Node of its own."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_SCRIPT = Path(__file__).with_suffix(".mjs")


class ModuleError(Exception):
    """What the module raised: its kind and message."""


class Module:
    """Calls by name; arrays go as they are."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, name: str, *given: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, *given], default=_packed) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise ModuleError(f"{answer['error']}: {answer['message']}")
        return answer["result"]


def _packed(array: Any) -> dict[str, str]:
    kind = {np.dtype(np.float32): "f4", np.dtype(np.int16): "i2"}[array.dtype]
    return {kind: base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()}


@contextmanager
def running(site: Path, *more: str) -> Iterator[Module]:
    """The module of a folder, not opened yet. more: `without SIMD`."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed here: apt-get install nodejs")
    command = [node, "--no-warnings", str(_SCRIPT), str(site), *more]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Module(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0
