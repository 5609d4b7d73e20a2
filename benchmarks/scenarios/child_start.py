"""What a fresh process does up to its first answer, and when; run by `cold_start`."""

from __future__ import annotations

import sys
import time

from ifmmin.benchmarks.scenarios.child_ways import WAYS, read_inputs, read_words


def main(began: float) -> None:
    """Answer one utterance, then print the moment at which each part was done.

    began: the clock at Python's first line. A predictor loads within its first call; what the
    engine itself took of that is the answer, the rest is loading.
    """
    words = read_words()
    way = WAYS[words["way"]](words)
    way.imports()
    inputs = read_inputs(words["inputs"])
    imported = time.monotonic()
    way.load()
    loaded = time.monotonic()
    logits = way.answer(inputs)
    answered = time.monotonic()
    if way.engine_seconds is not None:
        loaded = answered - way.engine_seconds

    import json  # only now: it is no part of a start

    moments = {"process": began, "import": imported, "load": loaded, "first answer": answered}
    sys.stdout.write(json.dumps({"moments": moments, "logits": logits.tolist()}) + "\n")
