"""Import of a checkpoint of the reference, with the same logits at batch 1.

Its files do not say in which form of IF-IM they were trained; that is found by trial.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ifmmin.runtime.errors import CheckpointError, InputError, RecipeError
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.runtime.prediction import check_labels

from ..config import Architecture, ModelConfig
from ..data.corpus import Statistics
from ..data.released import read_statistics
from ..model.models import build_network
from ..model.network import EmotionNetwork
from .nets import (
    BY_CORPUS,
    BY_UTTERANCE,
    MISSING_FRAMES,
    Mapped,
    feature_config,
    iemocap_layout,
    kept,
    map_nets,
    standardised,
)
from .weights import ReleasedFiles, read_released_files

HOW_TO_TELL = (
    "look into models/networks/autoencoder_2.py of the code that trained it: where the loop adds "
    "H' (`shared`) to its running input the form is parallel (code of October 2022 to September "
    "2024), where it adds it to the output of the block before it is cascade (code since then)"
)
_REFERENCE_MODEL = {"fusion": "utt_shared", "if-mmin": "IFMMIN", "mmin": "mmin"}


def imagination_form(
    files: ReleasedFiles, mapped: Mapped, named: str | None
) -> tuple[str, list[str]]:
    """The form, and what the user has to know about model and form, a line each.

    named: the form that the user named. InputError when IF-MMIN lacks it or MMIN has it.
    """
    notes = _surprises(files)
    if files.model == "if-mmin":
        return _of_if_mmin(mapped, named, notes), notes
    if files.model == "mmin":
        if named is not None:
            raise InputError(
                "--imagination is for IF-MMIN, and without a net invariant this is an MMIN; leave "
                "it out, or find the missing file"
            )
        notes.append("without a net invariant this is an MMIN")
    elif named is not None:
        notes.append("stage 1 does not imagine: --imagination is not used")
    return "cascade", notes


def _of_if_mmin(mapped: Mapped, named: str | None, notes: list[str]) -> str:
    looks, traces = "cascade", "decoders before the last were trained, as only the cascade trains"
    if mapped.idle_decoders:
        looks = "parallel"
        traces = "the decoders before the last have only zero biases, as the parallel form keeps"
    if named is None:
        raise InputError(
            "give --imagination cascade or parallel, the checkpoint does not record it; "
            f"{HOW_TO_TELL}. Here {traces} them"
        )
    if named != looks:
        notes.append(f"warning: got --imagination {named}, but {traces} them; {HOW_TO_TELL}")
    return named


def _surprises(files: ReleasedFiles) -> list[str]:
    notes = [f"{name} has no part in an answer: not imported" for name in files.unread]
    said, wanted = str(files.options.get("model", "")), _REFERENCE_MODEL[files.model]
    if said and said.lower() != wanted.lower():
        notes.append(
            f"warning: train_opt.conf says model {said}; it has the files of {wanted}, as which it "
            "is imported"
        )
    return notes


_SETTLED = 1e-3
"""Largest change of a missing modality's embedding when its zeros are twice as many."""


@dataclass(frozen=True)
class Imported:
    """What came of an import."""

    network: EmotionNetwork
    training: dict[str, Any]
    """The record for the checkpoint's header."""
    notes: tuple[str, ...]
    """What the user has to know, a line each."""


def import_released(
    directory: Path,
    *,
    fold: int,
    imagination: str | None = None,
    epoch: str | None = None,
    missing_frames: Mapping[Modality, int] | None = None,
    statistics: Path | None = None,
    labels: Sequence[str] | None = None,
) -> Imported:
    """Import one fold of a checkpoint directory of the reference.

    imagination: `cascade` or `parallel`, to be given for stage 2 of IF-MMIN. missing_frames: zeros
    that stand for a missing modality. statistics: HDF5 with FOLD/mean and FOLD/std of a; without
    it the network takes a as already standardised. Raises an IfmminError naming file and key.
    """
    files = read_released_files(directory, fold, epoch)
    mapped = map_nets(files)
    form, doubts = imagination_form(files, mapped, imagination)
    notes = [*mapped.notes, *doubts]
    how = standardised(files.options)
    if statistics is not None:
        _require_statistics_fit(how, notes)
    frames = {**MISSING_FRAMES, **(missing_frames or {})}
    try:
        architecture = Architecture(**mapped.architecture, imagination=form)
    except RecipeError as error:
        raise CheckpointError(f"{directory}: by the shapes of its weights {error}") from error
    config = ModelConfig(
        labels=_labels(labels, mapped.classes),
        features={
            m: feature_config(
                files.options, m, dim=mapped.dims[m], fold=fold, missing_length=frames[m],
                known=statistics is not None,
            )
            for m in MODALITIES
        },
        architecture=architecture,
    )  # fmt: skip
    network = build_network(config).eval()
    # In the parallel form only the last decoder is ever read.
    state = mapped.parallel_state() if form == "parallel" else mapped.state
    # The reference has no buffers: statistics that change nothing, temperatures of 1.
    network.load_state_dict({**dict(network.named_buffers()), **state})
    if statistics is not None:
        known = read_statistics(statistics, fold, mapped.dims[Modality.A])
        network.normaliser(Modality.A).take(known)
        network.observed(Modality.A).take(known)
    elif how is not None:
        dim = mapped.dims[Modality.A]
        network.observed(Modality.A).take(Statistics(np.zeros(dim), np.ones(dim)))
        notes.append(f"inputs of a count as {config.features[Modality.A].features}")
    _require_settled(network, missing_frames or {})
    return Imported(network, _record(files, fold, missing_frames or {}), tuple(notes))


def _labels(labels: Sequence[str] | None, classes: int) -> tuple[str, ...]:
    if labels is None:
        default = iemocap_layout().labels
        if classes != len(default):
            raise InputError(f"the checkpoint has {classes} classes; name them with --labels")
        return default
    if len(labels) != classes:
        raise InputError(
            f"--labels: got {','.join(labels)}, wanted {classes} different names, one per output"
        )
    check_labels(labels)
    return tuple(labels)


def _require_statistics_fit(how: str | None, notes: list[str]) -> None:
    if how is None or how == BY_UTTERANCE:
        raise InputError(
            f"--statistics: by train_opt.conf a is standardised with {how or 'nothing'}, not with "
            "the statistics of a fold; leave it out"
        )
    if how == BY_CORPUS:
        notes.append(f"warning: by train_opt.conf --statistics has to hold {how}")


def _require_settled(network: EmotionNetwork, given: Collection[Modality]) -> None:
    """InputError where the default number of zero frames is not as good as any."""
    for modality in MODALITIES:
        if modality in given:
            continue
        length = network.config.features[modality].missing_length
        with torch.no_grad():
            once, twice = (network.missing_pooled(modality, n) for n in (length, 2 * length))
        moved = float((once - twice).abs().max())
        summed = modality is not Modality.T and (
            network.config.architecture.pooling_of(modality) == "sum"
        )
        if moved > _SETTLED or summed:
            why = "; a sum over time never settles" if summed else ""
            raise InputError(
                f"a missing {modality} is zeros through its encoder, and from {length} to "
                f"{2 * length} frames its embedding moves by {moved:.2g} (allowed {_SETTLED:g})"
                f"{why}; say how many frames stand for it, e.g. --missing-frames {modality}=45"
            )


def _record(
    files: ReleasedFiles, fold: int, missing_frames: Mapping[Modality, int]
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "options": kept(files.options),
        "epoch": files.epoch,
        "stage": 1 if files.model == "fusion" else 2,
        "sha256": files.sha256,
        "missing_frames": {m.value: frames for m, frames in missing_frames.items()},
    }
    return {"imported": record, "fold": fold}
