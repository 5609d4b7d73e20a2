"""Model card, README.md of a bundle: what its manifest says, for people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ifmmin.runtime.bundle import EngineEntry, GraphEntry, Manifest, ModalitySpec, Origin
from ifmmin.runtime.console import escaped, markdown_table
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Modality

UNIT_SIZE = "unit_size"
"""Name in `parity` of the modalities whose probes were drawn at unit size, for want of a sample."""
COMPARED = ("largest difference", "of a probability", "agreement")
EVALUATED = ("WA", "UA", "ECE")
MEASURED = ("MB", *COMPARED, *EVALUATED, "in 8 bits")
ABSENT = "-"


def mega(count: int) -> str:
    """Bytes as megabytes."""
    return f"{count / 1e6:.2f}"


def short(value: float) -> str:
    """A small number in two digits."""
    return f"{value:.1e}" if value else "0"


def compared(entry: GraphEntry) -> list[str]:
    """Largest difference of a logit and of a probability, and agreement, as in COMPARED."""
    forms = {"max_difference": ".1e", "probability_max": ".1e", "agreement": ".1%"}
    return [_figure_text(entry.parity, name, form) for name, form in forms.items()]


def evaluated(entry: GraphEntry) -> list[str]:
    """Accuracy and calibration on a corpus, the network's in brackets, as in EVALUATED."""
    found = entry.evaluation or {}
    cells = []
    for name in (name.lower() for name in EVALUATED):
        own, network = (_figure_text(found, key, ".3f") for key in (name, f"network_{name}"))
        cells.append(own if ABSENT in (own, network) else f"{own} ({network})")
    return cells


def measured(entry: GraphEntry) -> list[str]:
    """All that is told of a graph in a table, as in MEASURED."""
    return [mega(entry.bytes), *compared(entry), *evaluated(entry), ", ".join(entry.quantised)]


def without_empty(
    headers: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """A table without the columns in which no row has anything."""
    full = [
        column for column in range(len(headers))
        if any(row[column] not in ("", ABSENT) for row in rows)
    ]  # fmt: skip
    return [headers[c] for c in full], [[row[c] for c in full] for row in rows]


def _figure_text(record: Mapping[str, Any], name: str, form: str) -> str:
    value = record.get(name)
    return format(value, form) if isinstance(value, int | float) else ABSENT


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
            "recipe": self.recipe, "corpus": self.corpus, "fold": self.fold, "seed": self.seed,
            "epochs": " + ".join(str(count) for count in self.epochs) or None,
            "imported": self.imported,
        }  # fmt: skip
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


_METRICS = ("WA", "UA", "F1", "ECE")
_LICENCES = (
    "mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "unlicense", "mpl-2.0", "openrail",
    "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0",
    "cc-by-nd-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0",
)  # fmt: skip
"""Identifiers that Hugging Face knows; any other text is a licence of its own there."""
_TASKS = {
    Modality.A: "audio-classification",
    Modality.V: "video-classification",
    Modality.T: "text-classification",
}
_PATTERNS = [str(pattern) for pattern in ALL_PATTERNS]
_SENSES = {Modality.A: "voice", Modality.V: "face", Modality.T: "words"}


def model_card(manifest: Manifest) -> str:
    """Markdown with the front matter of Hugging Face, from card.md; the same text for the same
    manifest.

    What the manifest does not know is left out, with its column or sentence.
    """
    # ifmmin-bundle has no need of it, and shows what this module reads out of a manifest.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ifmmin.export", ""), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"cell": cell, "code": code}
    specs, graphs = manifest.modalities, manifest.graphs
    present = _present(manifest)
    taken = [m for m in present if m in specs]
    lacking = [m for m in specs if any(m not in (e.pattern or (m,)) for e in graphs)]
    patterns = manifest.patterns or manifest.stream_patterns
    record = provenance(manifest.checkpoint)
    text = environment.get_template("card.md").render(
        bundle=manifest,
        origin=manifest.checkpoint,
        record=record,
        licence_lines=_licence_lines(manifest.licence),
        task=_TASKS[present[0]],
        senses=_listed([_SENSES[m] for m in present]),
        subjects=sorted({e.subject for e in graphs if e.pattern}, key=_PATTERNS.index),
        inputs=_input_table({m: specs[m] for m in taken}),
        longest=max(specs[m].verified_length for m in taken),
        lacking={m: specs[m].missing for m in lacking},
        patterns=patterns,
        widest=max(patterns, key=len, default=()),
        unit_size=_unit_size(graphs),
        precisions={entry.precision for entry in graphs},
        engines=_engine_table(manifest.engines) if manifest.engines else "",
        figures=_test_table(record.test),
        graph_table=_graph_table,
        measured_on=_measured_on,
        short=short,
        json=json.dumps,
    )
    return re.sub(r"\n{3,}", "\n\n", text)  # left by what the template left out


def cell(text: str) -> str:
    """Text that somebody wrote, in one line: as it stands, whatever Markdown would make of it."""
    return escaped(" ".join(text.split()))


def code(text: str) -> str:
    """A name as code, where it is an ordinary one."""
    return f"`{text}`" if re.fullmatch(r"[\w.-]+", text, re.ASCII) else cell(text)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(*without_empty(headers, rows))


def _input_table(specs: Mapping[Modality, ModalitySpec]) -> str:
    headers = ["modality", "per frame", "frames a second", "at least", "standardised", "features"]
    rows = [
        [
            f"`{modality}` {modality.word}",
            str(spec.dim),
            f"{spec.frame_rate:g}" if spec.frame_rate else "",
            f"{spec.minimum_length} frame{'s' if spec.minimum_length != 1 else ''}",
            "by the caller" if spec.normalised else "inside of the graph",
            cell(spec.features),
        ]
        for modality, spec in specs.items()
    ]
    return _table(headers, rows)


def _graph_table(entries: Sequence[GraphEntry]) -> str:
    return _table(["file", *MEASURED], [[code(e.file), *_cells(e)] for e in entries])


def _cells(entry: GraphEntry) -> list[str]:
    *figures, groups = measured(entry)
    return [*figures, cell(groups)]


def _measured_on(entries: Sequence[GraphEntry]) -> list[str]:
    """On which corpora accuracy was measured, where it was."""
    found, names = [entry.evaluation or {} for entry in entries], ("corpus", "fold", "utterances")
    corpora = [
        "{}, fold {} ({} utterances)".format(*(cell(str(about[name])) for name in names))
        for about in found if about.keys() >= {*names}
    ]  # fmt: skip
    return list(dict.fromkeys(corpora))


def _engine_table(engines: Sequence[EngineEntry]) -> str:
    rows = [
        [
            code(e.file),
            mega(e.bytes),
            cell(f"{e.engine} {e.version}"),
            cell(" ".join(e.targets)),
            cell(e.graph),
        ]
        for e in engines
    ]
    return _table(["file", "MB", "engine", "targets", "built from"], rows)


def _test_table(test: Mapping[str, Mapping[str, float]]) -> str:
    names = [name.lower() for name in _METRICS]
    rows = [
        [cell(pattern), *(f"{of[name]:.3f}" if name in of else "" for name in names)]
        for pattern, of in test.items()
    ]
    return _table(["pattern", *_METRICS], rows)


def _present(manifest: Manifest) -> list[Modality]:
    """The modalities that some graph of the bundle takes, in canonical order."""
    taken = {letter for entry in manifest.graphs for letter in entry.subject.split("_")}
    return [m for m in MODALITIES if m.value in taken] or list(manifest.modalities)


def _unit_size(entries: Sequence[GraphEntry]) -> list[Modality]:
    """The modalities whose probes were drawn without knowing what features are like."""
    named = [str(m) for e in entries for m in e.parity.get(UNIT_SIZE, ())]
    return [m for m in MODALITIES if m.value in named]


def _listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _licence_lines(licence: str | None) -> list[str]:
    if licence is None:
        return []
    name = "-".join(licence.lower().split())
    if name in _LICENCES:
        return [f"license: {name}"]
    short = re.sub(r"[^a-z0-9.]+", "-", name).strip("-")[:60] or "own"
    return ["license: other", f"license_name: {json.dumps(short)}"]
