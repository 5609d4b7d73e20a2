"""Which units' networks are blind somewhere: dead embeddings, collapsed invariant features."""

from __future__ import annotations

from collections.abc import Sequence

from ifmmin.runtime.modality import MODALITIES
from ifmmin.train.health import LEAST_ACTIVE, LEAST_DIMENSIONS
from ifmmin.train.sweeps.results import Result


def warnings(results: Sequence[Result]) -> list[str]:
    """A line for every weakness that units of one entry have."""
    lines = []
    for modality in MODALITIES:
        entries = [r.metrics.get("health", {}).get(modality.value, {}) for r in results]
        for what, figure, least in (
            ("dead embedding", "active", LEAST_ACTIVE),
            ("collapsed invariant features", "invariant_dimensions", LEAST_DIMENSIONS),
        ):
            weak = [e[figure] for e in entries if e.get(figure, least) < least]
            if weak:
                lines.append(
                    f"{modality.word}: {what} in {len(weak)} of {len(results)} units "
                    f"({figure} {min(weak):.2f} at worst, wanted {least} or more)"
                )
    return lines
