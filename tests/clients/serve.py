"""Start ifmmin-serve and let Triton's client ask it: serve.py PYTHON SCRIPT; see the Makefile."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ifmmin.runtime import Recognizer

_STEPS = 5


def expected() -> dict[str, Any]:
    """Inputs and answers, computed in this process."""
    recognizer = Recognizer(backend="onnxruntime-cpu")
    predictor = recognizer.predictor
    features = predictor.bundle.golden_inputs()[0]
    found: dict[str, Any] = {f"input/{m.value}": array for m, array in features.items()}
    for pattern in predictor.patterns:
        given = {m.value: features[m] for m in pattern}
        found[f"logits/{pattern}"] = predictor.predict(given).logits
    stream, logits = predictor.stream(), []
    found["pieces"] = np.array_split(next(iter(features.values())), _STEPS)[0][None].repeat(
        _STEPS, 0
    )
    for piece in found["pieces"]:
        stream.push({str(predictor.patterns[0]): piece})
        logits.append(stream.predict().logits)
    found["stream"] = np.stack(logits)
    found["text"] = np.array("what a nice surprise")
    found["speech"] = recognizer.recognize(text=str(found["text"])).logits
    return found


def main(python: str, script: str) -> int:
    """Serve, ask, end."""
    command = [
        sys.executable, "-m", "ifmmin.runtime.server.cli", "--port", "0", "--grpc-port", "0",
        "--backend", "onnxruntime-cpu",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "expected.npz"
        np.savez(path, **expected())
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            told = next(json.loads(line) for line in server.stderr if '"serving"' in line)
            try:
                ports = [str(told["http"]), str(told["grpc"])]
                return subprocess.run([python, script, str(path), *ports]).returncode
            finally:
                server.terminate()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
