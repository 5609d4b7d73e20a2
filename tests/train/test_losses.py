"""Losses against their formulas in float64, and their gradients where a norm is zero."""

from __future__ import annotations

import numpy as np
import torch

from ifmmin.train.losses import (
    bounded,
    central_moment_discrepancy,
    imagination_target,
    invariance_discrepancy,
)


def _cmd(x: np.ndarray, y: np.ndarray) -> float:
    total = np.sqrt(((x.mean(0) - y.mean(0)) ** 2).sum())
    for k in range(2, 6):
        moments = [((s - s.mean(0)) ** k).mean(0) for s in (x, y)]
        total += np.sqrt(((moments[0] - moments[1]) ** 2).sum())
    return float(total)


def test_cmd_equals_its_formula() -> None:
    h = torch.randn(20, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = h.numpy()
    pairs = [_cmd(x[:, i], x[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert abs(float(invariance_discrepancy(h)) - np.mean(pairs)) < 1e-12


def test_cmd_gradient_is_finite_where_its_norms_are_zero() -> None:
    for x in (torch.zeros(8, 4), torch.randn(8, 4, generator=torch.Generator().manual_seed(1))):
        first = x.clone().requires_grad_()
        central_moment_discrepancy(first, x.clone()).backward()  # type: ignore[no-untyped-call]
        assert first.grad is not None
        assert torch.isfinite(first.grad).all()


def test_scaling_features_is_no_way_out_of_the_bounded_cmd() -> None:
    h = torch.randn(64, 3, 5, generator=torch.Generator().manual_seed(2))
    h[:, 0] += 2.0
    small, large = (float(invariance_discrepancy(bounded(scale * h))) for scale in (0.1, 10.0))
    assert abs(small - large) < 1e-2
    assert float(bounded(h).abs().max()) < 1.0
    assert float(invariance_discrepancy(0.1 * h)) < 0.2 * float(invariance_discrepancy(h))


def test_imagination_target_is_the_teachers_view_of_the_complement() -> None:
    full, missing = torch.ones(2, 3, 4), torch.zeros(3, 4)
    keep = torch.tensor([[True, False, False], [True, True, False]])
    target = imagination_target(full, missing, keep)
    assert torch.equal(target[..., 0], (~keep).float())
