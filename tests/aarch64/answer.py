"""What the runtime answers on one processor; the same script runs on both, and needs no torch.

    answer.py SMALL FOLDER           everything below, for the small bundle and the one that ships
    answer.py SMALL FOLDER OTHER     streams alone, from snapshots taken into OTHER
    answer.py --control BUNDLE       what is wrong with a bundle, a line each

FOLDER gets answers.npz, the snapshots, and checks.json: what the golden vectors of every graph say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ifmmin.runtime import Predictor, Recognizer
from ifmmin.runtime.bundle import Bundle, shipped
from ifmmin.runtime.bundle.verify import CheckResult, check_bundle
from ifmmin.runtime.modality import Modality

Answers = dict[str, NDArray[np.floating]]
RECORDINGS = Path(__file__).resolve().parents[2] / "examples" / "recordings"
TEXT = "I am so glad that you came."
PIECE = 0.5
"""Seconds of sound that a stream gets at a time."""


def answers(small: Path) -> Answers:
    """Logits of golden inputs under every pattern, and what comes of recordings and words."""
    found: Answers = {}
    for bundle in (small, shipped()):
        predictor = Predictor(bundle, backend="onnxruntime-cpu")
        for number, inputs in enumerate(Bundle(bundle).golden_inputs()):
            for pattern in predictor.patterns:
                given = {m: inputs[m] for m in pattern}
                found[f"predict/{bundle.name}/{pattern}/{number}"] = predictor.predict(given).logits
    recognizer = Recognizer()
    for path in sorted(RECORDINGS.glob("*.wav")):
        found[f"features/sound/{path.stem}"] = recognizer.frontend(Modality.A).whole(path)
        found[f"recognize/{path.stem}"] = recognizer.recognize(sound=path).logits
        found[f"recognize/{path.stem} and words"] = recognizer.recognize(
            sound=path, text=TEXT
        ).logits
    found["features/words"] = recognizer.frontend(Modality.T).whole(TEXT)
    found["recognize/words"] = recognizer.recognize(text=TEXT).logits
    return found


def streams(small: Path, folder: Path, other: Path | None) -> Iterator[tuple[str, Any]]:
    """Logits of two streams after every piece, as `stream/NAME/PIECE`.

    Halfway a snapshot of each is written; with `other` they begin there, from its snapshots.
    """
    predictor = Predictor(small, backend="onnxruntime-cpu")
    inputs = max(Bundle(small).golden_inputs(), key=lambda given: len(given[Modality.A]))
    cut = {m: np.array_split(x, 6) for m, x in inputs.items()}
    sound, rate = soundfile.read(RECORDINGS / "angry.wav", dtype="float32")
    pieces = np.array_split(sound, max(2, int(len(sound) / rate / PIECE)))
    features, signals = predictor.stream(), Recognizer().stream()
    frames = [{m: x[n] for m, x in cut.items()} for n in range(6)]
    cases: tuple[tuple[str, Any, list[Any]], ...] = (
        ("features", features, [partial(features.push, one) for one in frames]),
        ("signals", signals, [partial(signals.push_sound, one, rate) for one in pieces]),
    )
    for name, stream, calls in cases:
        half, begin = len(calls) // 2, 0
        if other is not None:
            stream.resume((other / f"{name}.snapshot").read_bytes())
            begin = half
        for number, call in enumerate(calls[begin:], begin):
            if number == half and other is None:
                (folder / f"{name}.snapshot").write_bytes(stream.snapshot())
            call()
            if stream.pattern is not None:
                yield f"stream/{name}/{number}", stream.predict().logits


def group(check: CheckResult, bundle: Bundle) -> str:
    """The shape and precision of the graph that was looked at, or `files`."""
    entry = next((one for one in bundle.manifest.graphs if one.file == check.file), None)
    return "files" if entry is None else f"{entry.shape} {entry.precision}"


def checks(directory: Path) -> list[dict[str, Any]]:
    """What the bundle's own golden vectors say here."""
    bundle = Bundle(directory)
    return [
        {"bundle": directory.name, "group": group(one, bundle), "passed": one.passed,
         "difference": one.difference, "allowed": one.allowed, "unit": one.unit, "told": f"{one}"}
        for one in check_bundle(bundle)
    ]  # fmt: skip


def main(arguments: list[str]) -> int:
    """Write what was found, or print what is wrong."""
    if arguments[0] == "--control":
        wrong = [one["told"] for one in checks(Path(arguments[1])) if not one["passed"]]
        sys.stdout.write("".join(f"{told}\n" for told in wrong))
        return 0
    small, folder = Path(arguments[0]), Path(arguments[1])
    other = Path(arguments[2]) if len(arguments) > 2 else None
    folder.mkdir(parents=True, exist_ok=True)
    found: Answers = {} if other else answers(small)
    np.savez(folder / "answers.npz", **found, **dict(streams(small, folder, other)))  # type: ignore[arg-type]
    if other is None:
        told = [one for bundle in (small, shipped()) for one in checks(bundle)]
        (folder / "checks.json").write_text(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
