"""Write a repository of a bundle and the answers to expect of it: expect.py BUNDLE FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from ifmmin.export.triton.repository import write_repository
from ifmmin.runtime import Predictor

_SEQUENCES, _STEPS = 16, 6


def main(bundle: Path, folder: Path) -> None:
    """Golden inputs for the patterns, frames of noise for sequences."""
    predictor = Predictor(bundle, backend="onnxruntime-cpu")
    write_repository(predictor.bundle, folder / "repository")
    features = predictor.bundle.golden_inputs()[0]
    found: dict[str, Any] = {f"input/{m.value}": array for m, array in features.items()}
    found["labels"] = np.array(predictor.labels)
    for pattern in predictor.patterns:
        given = {m.value: features[m] for m in pattern}
        found[f"logits/{pattern}"] = predictor.predict(given).logits
    rng = np.random.default_rng(0)
    for sequence in range(_SEQUENCES if predictor.stream_patterns else 0):
        stream, logits = predictor.stream(), []
        frames = {
            m.value: rng.standard_normal((_STEPS, 4, array.shape[1])).astype(np.float32)
            for m, array in features.items()
        }
        for step in range(_STEPS):
            stream.push({m: array[step] for m, array in frames.items()})
            logits.append(stream.predict().logits)
        found |= {f"stream/{sequence}/{m}": array for m, array in frames.items()}
        found[f"stream/{sequence}/logits"] = np.stack(logits)
    np.savez(folder / "expected.npz", **found)


main(*map(Path, sys.argv[1:]))
