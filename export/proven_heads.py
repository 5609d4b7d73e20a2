"""Heads that stand in a bundle stay proven: export compared them with the summaries beside them."""

from __future__ import annotations

from collections.abc import Sequence

from ifmmin.export.workshop import ProvenGraph
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import OutputError
from ifmmin.runtime.manifest import MODALITY_SHAPES, GraphEntry


def require_proven_heads(standing: Bundle | None, made: Sequence[ProvenGraph]) -> None:
    """OutputError where a step or summary would change under a head that is not made anew.

    How much of a step and a summary computes in 8 bits depends on the loss that is accepted, and
    other versions of the exporter may draw them otherwise; a head that stands knows only the old.
    """
    if standing is None:
        return
    stands = {entry.key: entry for entry in standing.manifest.graphs}
    fresh = {graph.entry.key: graph.entry for graph in made}
    changed = {
        (entry.subject, entry.precision)
        for key, entry in fresh.items()
        if entry.shape in MODALITY_SHAPES
        and key in stands
        and stands[key].sha256 != entry.sha256
    }  # fmt: skip
    stale = [e for k, e in stands.items() if k not in fresh and _hears(e, changed)]
    if not stale:
        return
    precisions = ", ".join(dict.fromkeys(entry.precision for entry in stale))
    patterns = list(dict.fromkeys(entry.subject for entry in stale))
    moved = ", ".join(dict.fromkeys(subject for subject, _ in sorted(changed)))
    raise OutputError(
        f"the {precisions} stream graphs of {moved} would change under the heads of "
        f"{', '.join(patterns)} at {standing.directory}, which were proven with those that stand; "
        f"nothing was written. Export them too with {' '.join(f'--pattern {p}' for p in patterns)},"
        " accept the same losses and evaluate on the same corpus as before, or add --overwrite"
    )


def _hears(entry: GraphEntry, changed: set[tuple[str, str]]) -> bool:
    """Whether it is a head of a modality whose step or summary changes."""
    if entry.shape != "head" or entry.pattern is None:
        return False
    return any((m.value, entry.precision) in changed for m in entry.pattern)
