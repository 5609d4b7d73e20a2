"""The losses of both stages."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

CMD_MOMENTS = 5


def central_moment_discrepancy(x: Tensor, y: Tensor, moments: int = CMD_MOMENTS) -> Tensor:
    """CMD of two samples (N, E), (N', E), a scalar: sum over k of || c_k(x) - c_k(y) ||_2.

    c_1 is the mean, c_k the k-th central moment (Zellinger et al. 2017, without the 1 / (b - a)^k
    factor, as IF-MMIN uses it). The gradient is finite everywhere: zero where a norm is zero.
    """
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    x_central, y_central = x - x_mean, y - y_mean
    total: Tensor = torch.linalg.vector_norm(x_mean - y_mean)
    for k in range(2, moments + 1):
        difference = x_central.pow(k).mean(dim=0) - y_central.pow(k).mean(dim=0)
        total = total + torch.linalg.vector_norm(difference)
    return total


def bounded(invariant: Tensor, present: Tensor) -> Tensor:
    """H' (B, M, E) standardised over batch and present modalities, then squashed to (-1, 1).

    The moments of unbounded features grow without limit, and the cheapest way to shrink them is to
    shut an encoder; here scale is no way out, and every moment is at most 2.
    """
    seen = invariant[present]
    centred = invariant - seen.mean(dim=0)
    deviation = (seen - seen.mean(dim=0)).pow(2).mean(dim=0).add(1e-6).sqrt()
    return torch.tanh(centred / deviation)


def invariance_discrepancy(invariant: Tensor, present: Tensor) -> Tensor:
    """Mean CMD over the three pairs of modalities of H' (B, M, E), where both are present (B, M).

    A pair that fewer than two utterances show counts as zero.
    """
    pairs = []
    for i, j in combinations(range(invariant.shape[1]), 2):
        rows = present[:, i] & present[:, j]
        if int(rows.sum()) < 2:
            pairs.append(invariant.new_zeros(()))
        else:
            pairs.append(central_moment_discrepancy(invariant[rows, i], invariant[rows, j]))
    return torch.stack(pairs).mean()


def imagination_target(full: Tensor, absent: Tensor, keep: Tensor) -> Tensor:
    """What imagination should give (B, M, E): the teacher's encoding of the complement input.

    full: teacher embeddings (B, M, E) of the whole utterance; absent: its missing embeddings
    (M, E); keep: (B, M) bool, what the student was given. Where the student lacks a modality the
    target is its true embedding, elsewhere that of an absent one.
    """
    return torch.where(keep[..., None], absent, full)


def missing_error(imagined: Tensor, full: Tensor, missing: Tensor) -> Tensor:
    """MSE of imagined against true embeddings (B, M, E) over what is missing (B, M), else zero."""
    squares = (imagined - full).pow(2).mean(dim=2)
    return (squares * missing).sum() / missing.sum().clamp_min(1)


def distillation_error(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C) against the probabilities of the teacher's logits (B, C)."""
    return F.cross_entropy(logits, teacher.softmax(dim=1))
