"""What a checkpoint's record tells of its training, as far as it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ifmmin.runtime.manifest import Origin


@dataclass(frozen=True)
class Provenance:
    """Facts of a training; None or empty where the record has none.

    Records are written by training and by imports, or by hand: nothing in them is certain.
    """

    recipe: str | None
    description: str | None
    """What the recipe says of itself."""
    corpus: str | None
    fold: int | None
    seed: int | None
    epochs: tuple[int, ...]
    """Of each stage."""
    imported: str | None
    """Name, epoch and stage of the research code's checkpoint it was taken from."""
    test: Mapping[str, Mapping[str, float]]
    """Figures of the network on the test part, per pattern, with its `utterances`."""

    @property
    def facts(self) -> dict[str, str]:
        """Name and value of what is known, in the order in which people ask."""
        known = {
            "recipe": self.recipe,
            "corpus": self.corpus,
            "fold": self.fold,
            "seed": self.seed,
            "epochs": " + ".join(str(count) for count in self.epochs) or None,
            "imported": self.imported,
        }
        return {name: str(value) for name, value in known.items() if value is not None}


def provenance(origin: Origin) -> Provenance:
    """Read a checkpoint's record."""
    training = origin.training
    recipe = _mapping(training.get("recipe"))
    return Provenance(
        recipe=_text_or_none(recipe.get("name")),
        description=_text_or_none(recipe.get("description")),
        corpus=_text_or_none(training.get("corpus"))
        or _text_or_none(_mapping(recipe.get("corpus")).get("name")),
        fold=_whole(training.get("fold")),
        seed=_whole(training.get("seed")),
        epochs=_epochs(recipe),
        imported=_imported(_mapping(training.get("imported"))),
        test=_test_metrics(_mapping(training.get("metrics"))),
    )


def _epochs(recipe: Mapping[str, Any]) -> tuple[int, ...]:
    """Epochs at the full rate and while it falls, of each stage."""
    stages = [_mapping(recipe.get(name)) for name in ("stage1", "stage2")]
    counts = [
        [_whole(stage.get(key)) or 0 for key in ("epochs", "decay_epochs")] for stage in stages
    ]
    return tuple(sum(count) for count in counts if sum(count))


def _imported(record: Mapping[str, Any]) -> str | None:
    if not record:
        return None
    options = _mapping(record.get("options"))
    parts = [_text_or_none(options.get("name")) or "a checkpoint of the research code"]
    parts += [f"{name} {record[name]}" for name in ("epoch", "stage") if name in record]
    return ", ".join(parts)


def _test_metrics(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    found = {}
    for pattern, figures in _mapping(metrics.get("test")).items():
        numbers = {k: float(v) for k, v in _mapping(figures).items() if isinstance(v, int | float)}
        counts = _counts(_mapping(figures).get("confusion"))
        if counts:
            numbers["utterances"] = float(sum(counts))
        if numbers:
            found[str(pattern)] = numbers
    return found


def _counts(confusion: Any) -> list[int]:
    """The numbers of a confusion matrix."""
    rows = confusion if isinstance(confusion, list) else []
    cells = [count for row in rows if isinstance(row, list) for count in row]
    return [count for count in cells if isinstance(count, int)]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text_or_none(value: Any) -> str | None:
    """Text in one line."""
    return (" ".join(value.split()) or None) if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
