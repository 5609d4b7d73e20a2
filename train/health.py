"""Watches for what makes a network blind without any error: dead embeddings, collapsed H'."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ifmmin.runtime.console import say
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.evaluate import Embedded
from ifmmin.train.network import EmotionNetwork

ACTIVE_DEVIATION = 1e-3
"""A unit is active when its deviation over utterances is larger."""
LEAST_ACTIVE = 0.1
"""Share of active units below which an embedding is called dead."""
LEAST_DIMENSIONS = 1.1
"""Effective dimensions below which invariant features are called collapsed."""


def active_shares(embedded: Embedded) -> dict[Modality, float]:
    """Share of active units of h_m over the utterances that have the modality."""
    shares = {}
    for index, modality in enumerate(MODALITIES):
        some = embedded.h[embedded.present[:, index], index]
        if len(some) > 1:
            shares[modality] = _active(some)
    return shares


def examine(network: EmotionNetwork, embedded: Embedded) -> dict[str, Any]:
    """Per modality the share of active units of h_m and H'_m and the effective dimensions of H'_m,
    (sum l)^2 / sum l^2 over the eigenvalues l of its covariance."""
    report: dict[str, Any] = {}
    if network.config.architecture.model == "linear":
        return report  # its embeddings are the statistics themselves
    for index, modality in enumerate(MODALITIES):
        some = embedded.h[embedded.present[:, index], index]
        if len(some) < 2:
            continue
        entry = {"active": _active(some)}
        if network.config.architecture.invariant:
            with torch.no_grad():
                invariant = network.invariant(some)
            entry["invariant_active"] = _active(invariant)
            entry["invariant_dimensions"] = effective_dimensions(invariant)
        report[modality.value] = entry
    return report


def warn(report: dict[str, Any]) -> None:
    """Tell the user of dead embeddings and collapsed invariant features."""
    for letter, entry in report.items():
        word = Modality(letter).word
        if entry["active"] < LEAST_ACTIVE:
            say(
                f"warning: the {word} embedding is dead: {entry['active']:.0%} of its units react "
                "to the input; lower stage1.cmd, set stage1.cmd_bounded=true or standardise the "
                "features"
            )
        if entry.get("invariant_dimensions", LEAST_DIMENSIONS) < LEAST_DIMENSIONS:
            say(
                f"warning: the invariant features of {word} have collapsed to "
                f"{entry['invariant_dimensions']:.1f} effective dimensions; lower stage1.cmd"
            )


def _active(h: Tensor) -> float:
    return float((h.std(dim=0) > ACTIVE_DEVIATION).float().mean())


def effective_dimensions(x: Tensor) -> float:
    """Participation ratio of the covariance of (N, E); 0 for a constant."""
    covariance = torch.cov(x.double().T)
    trace = float(torch.trace(covariance))
    squares = float((covariance**2).sum())
    return trace * trace / squares if squares > 0 else 0.0
