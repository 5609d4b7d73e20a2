"""From a fresh process to the first answer: our runtime beside a bare ONNX Runtime session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

BARE = """
import sys
import numpy
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
providers = ["CPUExecutionProvider"]
path = sys.argv[1] + "/a.latency.fp32.onnx"
session = onnxruntime.InferenceSession(path, options, providers=providers)
session.run(None, {"a": numpy.zeros((50, int(sys.argv[2])), numpy.float32)})
"""
OURS = """
import sys
import numpy
from ifmmin.runtime import Predictor
predictor = Predictor(sys.argv[1], backend="onnxruntime-cpu")
predictor.predict({"a": numpy.zeros((50, int(sys.argv[2])), numpy.float32)})
"""


def starts(bundle: Path, width: int) -> dict[str, Callable[[], object]]:
    """Calls that each start a process, load pattern a of a bundle and answer once.

    width: features per acoustic frame.
    """
    words = [str(bundle), str(width)]
    return {
        name: partial(subprocess.run, [sys.executable, "-c", script, *words], check=True)
        for name, script in (("bare session", BARE), ("predictor", OURS))
    }
