"""Graphs load and answer in the oldest ONNX Runtime that is supported, as in the newest.

`make` puts it beside the development set, without its dependencies, in a folder of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ifmmin.export.export import Request, export_bundle
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.modality import ALL_PATTERNS

OLDEST = Path(sys.prefix) / "onnxruntime-oldest"
SCRIPT = """
import sys
import onnxruntime
from pathlib import Path
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.predictor import Predictor

assert onnxruntime.__version__.startswith("1.20."), onnxruntime.__version__
bundle = Bundle(sys.argv[1])
for entry in bundle.manifest.graphs:
    OnnxRuntimeCpu().load(bundle.graph(entry), literal=entry.precision not in ("fp32", "int8"))
predictor = Predictor(sys.argv[1])
worst = max(abs(predictor.predict(c.features).logits - c.logits).max() for c in bundle.golden())
print(len(bundle.manifest.graphs), worst)
"""


@pytest.mark.skipif(
    not OLDEST.is_dir(), reason="ONNX Runtime 1.20 is not there; make test installs it"
)
def test_every_graph_loads_in_the_oldest(checkpoint: Path, tmp_path: Path) -> None:
    request = Request(
        precisions=("fp32", "fp16", "int8", "int8-qdq"),
        losses={"probabilities": 0.5, "agreement": 0.5},
    )
    export_bundle(checkpoint, ALL_PATTERNS, tmp_path / "bundle", request=request)
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "bundle")],
        env={**os.environ, "PYTHONPATH": str(OLDEST)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    count, worst = found.stdout.split()
    assert int(count) == len(Bundle(tmp_path / "bundle").manifest.graphs)
    assert float(worst) < 1e-4
