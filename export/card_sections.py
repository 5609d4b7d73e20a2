"""Sections of the model card: inputs, use, training, limits. Each is a list of Markdown blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ifmmin.export.figures import short, without_empty
from ifmmin.export.provenance import provenance
from ifmmin.runtime.console import markdown_table
from ifmmin.runtime.manifest import Manifest, ModalitySpec
from ifmmin.runtime.modality import MODALITIES, Modality

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


_COMMANDS = {True: "ifmmin-run bundle clip.npz", False: "ifmmin-run bundle --stream -"}
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
