"""Losses against their formulas in float64, and their gradients where a norm is zero."""

from __future__ import annotations

import numpy as np
import torch

from ifmmin.train.losses import (
    bounded,
    central_moment_discrepancy,
    imagination_target,
    invariance_discrepancy,
    missing_error,
)

ALL = torch.ones(64, 3, dtype=torch.bool)


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
    assert abs(float(invariance_discrepancy(h, ALL[: len(h)])) - np.mean(pairs)) < 1e-12


def test_cmd_gradient_is_finite_where_its_norms_are_zero() -> None:
    for x in (torch.zeros(8, 4), torch.randn(8, 4, generator=torch.Generator().manual_seed(1))):
        first = x.clone().requires_grad_()
        central_moment_discrepancy(first, x.clone()).backward()  # type: ignore[no-untyped-call]
        assert first.grad is not None
        assert torch.isfinite(first.grad).all()


def test_scaling_features_is_no_way_out_of_the_bounded_cmd() -> None:
    h = torch.randn(64, 3, 5, generator=torch.Generator().manual_seed(2))
    h[:, 0] += 2.0
    small, large = (
        float(invariance_discrepancy(bounded(scale * h, ALL), ALL)) for scale in (0.1, 10.0)
    )
    assert abs(small - large) < 1e-2
    assert float(bounded(h, ALL).abs().max()) < 1.0
    assert float(invariance_discrepancy(0.1 * h, ALL)) < 0.2 * float(
        invariance_discrepancy(h, ALL[: len(h)])
    )


def test_imagination_target_is_the_teachers_view_of_the_complement() -> None:
    full, missing = torch.ones(2, 3, 4), torch.zeros(3, 4)
    keep = torch.tensor([[True, False, False], [True, True, False]])
    target = imagination_target(full, missing, keep)
    assert torch.equal(target[..., 0], (~keep).float())


def test_cmd_reads_only_what_is_present() -> None:
    h = torch.randn(64, 3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    present = ALL.clone()
    present[:20, 2] = False
    present[30:, 1] = False
    x = h.numpy()
    pairs = [_cmd(x[:30, 0], x[:30, 1]), _cmd(x[20:, 0], x[20:, 2]), _cmd(x[20:30, 1], x[20:30, 2])]
    found = float(invariance_discrepancy(h, present))
    assert abs(found - np.mean(pairs)) < 1e-12
    changed = h.clone()
    changed[~present] = 1e3
    assert float(invariance_discrepancy(changed, present)) == found
    torch.testing.assert_close(
        bounded(h, present)[present], bounded(changed, present)[present], rtol=0, atol=0
    )


def test_missing_error_reads_only_what_is_missing() -> None:
    imagined, full = torch.ones(2, 3, 4), torch.zeros(2, 3, 4)
    missing = torch.tensor([[True, False, False], [True, True, False]])
    imagined[~missing] = 50.0
    imagined[1, 1] = 2.0
    assert float(missing_error(imagined, full, missing)) == (1 + 1 + 4) / 3
    assert float(missing_error(imagined, full, torch.zeros_like(missing))) == 0.0
