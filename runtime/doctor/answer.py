"""Answers questions on standard output, a line of JSON each: `python -m ... QUESTION...`.

`cuda`: the driver by its own library. `onnxruntime`: what is compiled in. `backend:NAME`: whether
it starts here. `bundle:NAME:DIRECTORY`: the golden inputs of a bundle by a backend.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from ifmmin.runtime.backends.choose import make_backend
from ifmmin.runtime.check import one_line
from ifmmin.runtime.doctor.cuda_driver import ask_cuda
from ifmmin.runtime.doctor.selftest import test_bundle
from ifmmin.runtime.errors import BackendUnavailable


def main(questions: Sequence[str]) -> None:
    """Answer each question in turn; whatever goes wrong becomes its answer."""
    # Libraries print on standard output as they like; answers get a channel of their own.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for question in questions:
        try:
            answer = _answer(question)
        except BackendUnavailable as error:
            answer = {"error": " ".join(str(error).split())}
        # What strange libraries raise is what is asked for here.
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {one_line(error)}"}
        channel.write(json.dumps([question, answer]) + "\n")
        channel.flush()


def _answer(question: str) -> dict[str, Any]:
    kind, _, rest = question.partition(":")
    if kind == "cuda":
        return ask_cuda()
    if kind == "onnxruntime":
        import onnxruntime

        return {"providers": list(onnxruntime.get_available_providers())}
    if kind == "backend":
        make_backend(rest)
        return {}
    name, _, directory = rest.partition(":")
    return test_bundle(name, directory)


if __name__ == "__main__":
    main(sys.argv[1:])
