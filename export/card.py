"""Model card, README.md of a bundle: what its manifest says, for people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ifmmin.runtime.bundle import GraphEntry, Manifest, ModalitySpec, Origin
from ifmmin.runtime.console import markdown_table
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Modality

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


_SHAPES = {
    "latency": "One utterance",
    "throughput": "Batches, padded, with lengths",
    "step": "Streams: new frames of a modality",
    "summary": "Streams: what a modality adds to the answer",
    "head": "Streams: the answer",
}
_PRECISIONS = {
    "fp16": "`fp16`: weights and activations in 16 bits, for GPUs.",
    "int8": "`int8`: 8 bits as far as accuracy bears them, for ONNX Runtime on CPUs.",
    "int8-qdq": "`int8-qdq`: 8 bits in ranges fixed at export, for TensorRT.",
}
_SCAN = "`scan`: the recurrence as a loop with the input's projection before it, for TensorRT."


def graph_blocks(manifest: Manifest) -> list[str]:
    """Markdown blocks."""
    blocks = [
        "## Graphs",
        "Largest difference: of a logit, between the graph and the network in float64, over inputs "
        "of every length; beside it that of a probability. Agreement: answers with the same "
        "winning class.",
    ]
    notes = _notes(manifest.graphs)
    if notes:
        blocks.append("\n".join(f"- {note}" for note in notes))
    for shape, title in _SHAPES.items():
        entries = [entry for entry in manifest.graphs if entry.shape == shape]
        if entries:
            blocks += [f"### {title} (`{shape}`)", *_measured_on(entries), _graph_table(entries)]
    if manifest.engines:
        blocks += ["### Engines built ahead of time", _engines(manifest)]
    return blocks


def _notes(entries: Sequence[GraphEntry]) -> list[str]:
    used = {entry.precision for entry in entries}
    notes = [text for precision, text in _PRECISIONS.items() if precision in used]
    return [*notes, *([_SCAN] if any(e.recurrence == "scan" for e in entries) else [])]


def _graph_table(entries: Sequence[GraphEntry]) -> str:
    headers = ["file", *MEASURED]
    rows = [
        [
            f"`{entry.file}`",
            *measured(entry),
        ]
        for entry in entries
    ]
    return markdown_table(*without_empty(headers, rows))


def _measured_on(entries: Sequence[GraphEntry]) -> list[str]:
    """On which corpora accuracy was measured, where it was."""
    found = []
    for entry in entries:
        about = entry.evaluation or {}
        if {"corpus", "fold", "utterances"} <= about.keys():
            text = f"{cell(str(about['corpus']))}, fold {about['fold']}"
            found.append(f"{text} ({about['utterances']} utterances)")
    if not found:
        return []
    corpora = "; ".join(dict.fromkeys(found))
    return [f"WA, UA and ECE on the test part of {corpora}; in brackets the network's."]


def _engines(manifest: Manifest) -> str:
    headers = ["file", "MB", "engine", "targets", "built from"]
    rows = [
        [f"`{e.file}`", mega(e.bytes), f"{e.engine} {e.version}", " ".join(e.targets), e.graph]
        for e in manifest.engines
    ]
    return markdown_table(*without_empty(headers, rows))


_FRAMES = 30
"""Frames of the inputs in the example."""
_METRICS = ("WA", "UA", "F1", "ECE")


def present(manifest: Manifest) -> list[Modality]:
    """The modalities that some graph of the bundle takes, in canonical order."""
    taken = {letter for entry in manifest.graphs for letter in entry.subject.split("_")}
    return [m for m in MODALITIES if m.value in taken] or list(manifest.modalities)


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def cell(text: str) -> str:
    """Text that somebody wrote, fit for a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def input_blocks(manifest: Manifest) -> list[str]:
    """What to give, and what stands for what is missing."""
    headers = ["modality", "per frame", "frames a second", "at least", "standardised", "features"]
    specs = manifest.modalities
    taken = [m for m in present(manifest) if m in specs]
    longest = max(specs[m].verified_length for m in taken)
    blocks = [
        "## Inputs",
        "An array (frames, features) of float32 per modality that is present; one that is `None` "
        "or empty counts as missing.",
        markdown_table(*without_empty(headers, [_input(m, specs[m]) for m in taken])),
        "A shorter input is padded with zero frames by the runtime. The graphs were compared with "
        f"their network on inputs up to {longest} frames.",
    ]
    lacking = [m for m in specs if any(m not in (e.pattern or (m,)) for e in manifest.graphs)]
    if lacking:
        blocks += [
            "What stands for a missing modality is a constant in the graphs, the embedding of zero "
            "frames:",
            "\n".join(_missing(m, specs[m]) for m in lacking),
        ]
    return blocks


_COMMANDS = {True: "ifmmin-run clip.npz -b bundle", False: "ifmmin-run -b bundle --stream -"}
_WHOLE = ["answer = predictor.predict(features)"]
_STREAM = ["stream = predictor.stream()", "stream.push(features)", "answer = stream.predict()"]


def use_blocks(manifest: Manifest) -> list[str]:
    """How to run it: on whole utterances where it has graphs for them, else as a stream."""
    patterns = manifest.patterns or manifest.stream_patterns
    if not patterns:
        return []
    widest = max(patterns, key=len)
    whole = bool(manifest.patterns)
    arrays = [
        f'    "{m}": np.zeros(({max(_FRAMES, spec.minimum_length)}, {spec.dim}), np.float32),'
        for m in widest
        if (spec := manifest.modalities.get(m))
    ]
    code = [
        "import numpy as np",
        "from ifmmin.runtime import Predictor",
        "",
        'predictor = Predictor("bundle")  # this directory',
        "features = {  # leave out what is missing",
        *arrays,
        "}",
        *(_WHOLE if whole else _STREAM),
        "print(answer.label, answer.probabilities, answer.pattern)",
    ]
    return [
        "## Use",
        f"Install `ifmmin[cpu]`; torch is not needed. Patterns, of what is present: "
        f"{', '.join(str(pattern) for pattern in patterns)}.",
        f"```\n{_COMMANDS[whole]}    # {', '.join(widest)}\n```",
        "\n".join(["```python", *code, "```"]),
    ]


def training_blocks(manifest: Manifest) -> list[str]:
    """What the checkpoint's record tells, as far as it does."""
    record = provenance(manifest.checkpoint)
    blocks = []
    if record.facts:
        blocks.append("\n".join(f"- {name}: {cell(value)}" for name, value in record.facts.items()))
    if record.description:
        blocks.append(f"The recipe says: {record.description}")
    if record.test:
        rows = [
            [
                pattern,
                *(f"{of[key]:.3f}" if (key := name.lower()) in of else "" for name in _METRICS),
            ]
            for pattern, of in record.test.items()
        ]
        blocks += [
            "The network, on the test part:",
            markdown_table(*without_empty(["pattern", *_METRICS], rows)),
        ]
    return ["## Training", *blocks] if blocks else []


def limit_blocks(manifest: Manifest) -> list[str]:
    """What the bundle is not good for, and what nobody looked at."""
    measured = provenance(manifest.checkpoint).test or any(e.evaluation for e in manifest.graphs)
    limits = []
    if measured:
        limits.append(
            "Accuracy was measured on the test part named here and on nothing else; other "
            "speakers, languages, cameras and microphones are another matter."
        )
    limits += [
        "Corpora of emotion are acted or elicited, and their labels are what others saw and heard "
        "in it: an answer is not what somebody feels.",
        "Not for decisions about people.",
    ]
    if any(entry.precision.startswith("int8") for entry in manifest.graphs):
        limits.append("Answers of 8-bit graphs may differ in the last digits between CPUs.")
    limits.append("Everything here was run on a CPU; it was not run on a GPU.")
    return ["## Limits", "\n".join(f"- {limit}" for limit in limits)]


def _input(modality: Modality, spec: ModalitySpec) -> list[str]:
    return [
        f"`{modality}` {modality.word}",
        str(spec.dim),
        f"{spec.frame_rate:g}" if spec.frame_rate else "",
        f"{spec.minimum_length} frame{'s' if spec.minimum_length != 1 else ''}",
        "by the caller" if spec.normalised else "inside of the graph",
        cell(spec.features),
    ]


def _test_row(pattern: str, figures: Mapping[str, float]) -> list[str]:
    metrics = [figures.get(name.lower()) for name in _METRICS]
    count = figures.get("utterances")
    return [
        cell(pattern),
        *("" if value is None else f"{value:.3f}" for value in metrics),
        "" if count is None else f"{count:g}",
    ]


def _missing(modality: Modality, spec: ModalitySpec) -> str:
    missing = spec.missing
    settled = (
        f"from {missing.settled_at} on none changes by more than {missing.tolerance:g}"
        if missing.settled_at is not None
        else f"it never settles to {missing.tolerance:g}"
    )
    return (
        f"- `{modality}`: {missing.length} frames. With more of them no value would change by more "
        f"than {short(missing.deviation)}; {settled}."
    )


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
    """Markdown with the front matter of Hugging Face; the same text for the same manifest.

    What the manifest does not know is left out, with its column or sentence.
    """
    blocks = [
        _front_matter(manifest),
        *_opening(manifest),
        *input_blocks(manifest),
        *use_blocks(manifest),
        *graph_blocks(manifest),
        *training_blocks(manifest),
        *limit_blocks(manifest),
        *_closing(manifest),
    ]
    return "\n\n".join(blocks) + "\n"


def _front_matter(manifest: Manifest) -> str:
    """YAML; values that people wrote are quoted as JSON, which YAML takes."""
    lines = ["---", *_licence_lines(manifest.licence), "library_name: ifmmin"]
    lines.append(f"pipeline_tag: {_TASKS[present(manifest)[0]]}")
    tags = ["emotion-recognition", "multimodal", "missing-modality", "onnx"]
    model = json.dumps(manifest.checkpoint.model, ensure_ascii=False)
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), f"- {model}", "---"])


def _licence_lines(licence: str | None) -> list[str]:
    if licence is None:
        return []
    name = "-".join(licence.lower().split())
    if name in _LICENCES:
        return [f"license: {name}"]
    short = re.sub(r"[^a-z0-9.]+", "-", name).strip("-")[:60] or "own"
    return ["license: other", f"license_name: {json.dumps(short)}"]


def _opening(manifest: Manifest) -> list[str]:
    origin = manifest.checkpoint
    facts = provenance(origin).facts
    parts = [origin.model, *(facts[name] for name in ("corpus",) if name in facts)]
    senses = listed([_SENSES[m] for m in present(manifest)])
    subjects = sorted({e.subject for e in manifest.graphs if e.pattern}, key=_PATTERNS.index)
    missing = " when some of it may be missing" if len(subjects) > 1 else ""
    return [
        f"# Emotion recognition: {', '.join(parts)}",
        f"A network of the kind `{origin.model}` that recognises emotion from {senses}{missing}, "
        f"as {len(manifest.graphs)} ONNX graphs made for what is present "
        f"({', '.join(subjects)}), each compared with the network before it was written.",
        "## Classes",
        f"In the order of the logits: {', '.join(manifest.labels)}. Their softmax gives the "
        "probabilities.",
    ]


def _closing(manifest: Manifest) -> list[str]:
    stated = manifest.licence or (
        "Not stated: it follows the terms of the corpus it was trained on; ask whoever trained it."
    )
    tools = ", ".join(f"{name} {version}" for name, version in manifest.tools.items())
    return [
        "## Licence of the weights",
        stated,
        "## Verify",
        "Hashes, graphs and golden vectors, on the device at hand; with the checkpoint, every "
        "graph against the network again:",
        "```\nifmmin-bundle verify -b .\n"
        "ifmmin-bundle verify -b . --checkpoint model.safetensors\n```",
        f"Checkpoint: sha256 `{manifest.checkpoint.sha256}`. Written by {tools}.",
    ]
