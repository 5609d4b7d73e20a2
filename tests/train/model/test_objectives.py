"""Batches, and the losses of both stages against their formulas, utterance by utterance."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import small_network, small_utterance
from torch.nn import functional as F

from ifmmin.runtime.modality import ALL_PATTERNS, INCOMPLETE_PATTERNS, MODALITIES
from ifmmin.train.config import Stage1, Stage2
from ifmmin.train.data.corpus import Utterance, collate, pattern_mask
from ifmmin.train.model.loader import BatchLoader, endless_rows
from ifmmin.train.model.losses import (
    Objective,
    TaughtObjective,
    Teacher,
    bounded,
    draw_patterns,
    invariance_discrepancy,
)
from ifmmin.train.model.models import FusionNetwork, ImaginationNetwork
from ifmmin.train.trainer import build_optimiser, update

COMMON: dict[str, Any] = {
    "epochs": 1, "decay_epochs": 0, "batch_size": 16, "learning_rate": 1e-3, "dropout": 0.0,
    "clip": 0.5,
}  # fmt: skip


def _utterances(count: int = 12) -> list[Utterance]:
    return [
        small_utterance(np.random.default_rng(i), {"a": 3 + i, "v": 4, "t": 6}, i % 4)
        for i in range(count)
    ]


def _draws() -> np.random.Generator:
    return np.random.default_rng(7)


def test_every_sub_network_is_clipped_apart() -> None:
    network = small_network()
    loader = BatchLoader(network, _utterances(8))
    objective = Objective(network, Stage1(**COMMON), loader, _draws())
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    # Plain gradient descent with rate 1 moves a part by exactly its clipped gradient.
    descent = torch.optim.SGD(network.parameters(), lr=1.0)
    batch = loader.batch(np.arange(8))
    update(objective, descent, 1e6 * F.cross_entropy(network(batch).logits, batch.labels))
    moved = {name: p.detach() - before[name] for name, p in network.named_parameters()}
    norms = []
    for part in network.parts().values():
        names = [n for n, p in network.named_parameters() if any(p is q for q in part.parameters())]
        norms.append(float(torch.cat([moved[n].flatten() for n in names]).norm()))
    assert len(norms) == 6
    np.testing.assert_allclose(norms, 0.5, rtol=1e-3)


@pytest.mark.parametrize("model", ["if-mmin", "mmin"])
@pytest.mark.parametrize("of", ["all", "missing"])
def test_stage_2_losses_equal_their_formulas(model: str, of: str) -> None:
    student = small_network(model, seed=1).double()
    teacher = small_network("fusion" if model == "if-mmin" else "augmented", seed=2).double()
    assert isinstance(student, ImaginationNetwork)
    assert isinstance(teacher, FusionNetwork)
    stage = Stage2(**COMMON, imagination=3.0, imagination_of=of, invariance=10.0, cycle=2.0)
    utterances = _utterances()
    loader = BatchLoader(student, utterances)
    taught = TaughtObjective(student, stage, loader, _draws(), Teacher(teacher, loader))
    if taught.cycle is not None:
        taught.cycle.double()
    rows = np.arange(len(utterances))[::-1].copy()
    with torch.no_grad():
        found = taught.losses(loader.batch(rows), rows)
        present = torch.ones(len(rows), 3, dtype=torch.bool)
        keep = draw_patterns(present, pattern_mask(INCOMPLETE_PATTERNS), _draws())
        expected: dict[str, list[torch.Tensor]] = {name: [] for name in found}
        for row, which in enumerate(rows):
            utterance = utterances[which]
            # Each utterance alone, with only what its pattern leaves, and its complement.
            left = {m: utterance.features[m] for i, m in enumerate(MODALITIES) if keep[row, i]}
            rest = {m: x for m, x in utterance.features.items() if m not in left}
            parts = [
                collate([Utterance("x", features, utterance.label)], student.config)
                for features in (left, rest, utterance.features)
            ]
            given, complement, whole = (part.to(torch.float64) for part in parts)
            output, said = student(given), teacher(whole)
            assert output.imagined is not None
            expected["cross_entropy"].append(F.cross_entropy(output.logits, given.labels))
            squares = (output.imagined - teacher.embeddings(complement)) ** 2
            missing = ~keep[row]
            expected["imagination"].append(
                squares.mean() if of == "all" else squares[0, missing].mean() * missing.sum()
            )
            if model == "if-mmin":
                assert output.invariant is not None
                expected["invariance"].append(((output.invariant - said.invariant) ** 2).mean())
            else:
                h = student.embeddings(given)[:, [0, 2, 1]].flatten(1)
                imagined = output.imagined[:, [0, 2, 1]].flatten(1)
                assert taught.cycle is not None
                expected["cycle"].append(((taught.cycle(imagined, None)[1] - h) ** 2).mean())
    weights = {"imagination": 3.0, "invariance": 10.0, "cycle": 2.0}
    assert set(found) == {"cross_entropy", "imagination"} | (
        {"invariance"} if model == "if-mmin" else {"cycle"}
    )
    for name, values in expected.items():
        mean = torch.stack(values).mean()
        if name == "imagination" and of == "missing":
            mean = torch.stack(values).sum() / (~keep).sum()
        assert float(found[name]) == pytest.approx(weights.get(name, 1.0) * float(mean))


def test_every_pattern_counts_once_per_utterance() -> None:
    network = small_network("augmented").double()
    utterances = _utterances(5)
    lacking = Utterance("lacks", {MODALITIES[0]: utterances[0].features[MODALITIES[0]]}, 2)
    loader = BatchLoader(network, [*utterances, lacking])
    objective = Objective(network, Stage2(**COMMON, patterns="every"), loader, _draws())
    with torch.no_grad():
        batch = loader.batch(np.arange(6))
        found = objective.losses(batch, np.arange(6))["cross_entropy"]
        errors = []
        for utterance in loader.utterances:
            for pattern in ALL_PATTERNS:
                left = {m: x for m, x in utterance.features.items() if m in pattern}
                if left:
                    one = collate([Utterance("x", left, utterance.label)], network.config)
                    logits = network(one.to(torch.float64)).logits
                    errors.append(F.cross_entropy(logits, one.labels))
    assert len(errors) == 5 * 7 + 4
    assert float(found) == pytest.approx(float(torch.stack(errors).mean()))


def test_patterns_are_drawn_uniformly_within_what_is_present() -> None:
    present = torch.tensor([[True, True, True]] * 6000 + [[False, True, False]] * 500)
    keep = draw_patterns(present, pattern_mask(ALL_PATTERNS), np.random.default_rng(0))
    drawn, counts = np.unique(keep[:6000].numpy(), axis=0, return_counts=True)
    assert len(drawn) == 7
    assert counts.std() < 0.1 * counts.mean()
    assert torch.equal(keep[6000:], present[6000:])


@pytest.mark.parametrize("squashed", [False, True])
def test_stage_1_losses_are_weighted_as_the_recipe_says(squashed: bool) -> None:
    network = small_network("fusion")
    loader = BatchLoader(network, _utterances(9))
    stage = Stage1(**COMMON, cmd=0.5, cmd_bounded=squashed, class_balance=True)
    batch = loader.batch(np.arange(9))
    with torch.no_grad():
        found = Objective(network, stage, loader, _draws()).losses(batch, np.arange(9))
        output = network(batch)
        features = bounded(output.invariant, batch.present) if squashed else output.invariant
        discrepancy = invariance_discrepancy(features, batch.present)
    assert set(found) == {"cross_entropy", "cmd"}
    assert float(found["cmd"]) == pytest.approx(0.5 * float(discrepancy))
    weights = 9 / (4 * np.bincount(batch.labels.numpy(), minlength=4))
    logs = output.logits.log_softmax(dim=1).numpy()
    labels = batch.labels.numpy()
    chosen = -weights[labels] * logs[np.arange(9), labels]
    expected = chosen.sum() / weights[labels].sum()
    assert float(found["cross_entropy"]) == pytest.approx(expected, rel=1e-5)


def test_matrices_decay_and_biases_do_not() -> None:
    network = small_network("statistics")
    loader = BatchLoader(network, _utterances(6))
    optimiser = build_optimiser(
        Objective(network, Stage1(**COMMON, weight_decay=5.0), loader, _draws())
    )
    decays = {id(p): g["weight_decay"] for g in optimiser.param_groups for p in g["params"]}
    assert decays == {id(p): 5.0 if p.dim() > 1 else 0.0 for p in network.parameters()}


class _Lengths:
    """Stands for a feed: utterances that cost these numbers."""

    sorts = True

    def __init__(self, costs: list[int]) -> None:
        self._costs = np.array(costs)

    def __len__(self) -> int:
        return len(self._costs)

    def costs(self) -> np.ndarray:
        return self._costs


@given(st.lists(st.integers(1, 100), min_size=2, max_size=60), st.integers(2, 9), st.integers(1, 4))
def test_a_pass_holds_every_utterance_once(costs: list[int], size: int, buckets: int) -> None:
    loader: Any = _Lengths(costs)
    rows = endless_rows(loader, size, buckets, np.random.default_rng(0))
    per_pass = -(-len(costs) // min(size, len(costs)))
    for _ in range(2):
        batches = list(islice(rows, per_pass))
        assert sorted(np.concatenate(batches)) == list(range(len(costs)))
        assert max(len(batch) for batch in batches) <= size


def test_buckets_save_padding_and_still_shuffle() -> None:
    costs = np.random.default_rng(0).integers(1, 100, 640).tolist()
    loader: Any = _Lengths(costs)

    def waste(buckets: int) -> float:
        batches = islice(endless_rows(loader, 32, buckets, np.random.default_rng(0)), 20)
        spent = [np.array(costs)[batch] for batch in batches]
        return float(sum((x.max() - x).sum() for x in spent))

    assert waste(10) < 0.3 * waste(1)
    rows = endless_rows(loader, 32, 10, np.random.default_rng(0))
    first, second = (np.concatenate(list(islice(rows, 20))) for _ in range(2))
    assert not np.array_equal(first, second)
    # Batches of a group do not come by length.
    lengths = np.random.default_rng(0).integers(1, 1000, 320)
    feed: Any = _Lengths(lengths.tolist())
    batches = list(islice(endless_rows(feed, 32, 10, np.random.default_rng(0)), 10))
    means = [lengths[batch].mean() for batch in batches]
    assert means != sorted(means)


def test_pooled_batches_answer_like_padded_ones() -> None:
    network = small_network("statistics").double()
    rng = np.random.default_rng(0)
    utterances = [small_utterance(rng, {"a": 3 + i, "t": 5 + i}) for i in range(4)]
    loader = BatchLoader(network, utterances)
    assert loader.batch(np.arange(4)).features == {}
    pooled = network.answer(loader.batch(np.array([2, 0]))).detach().numpy()
    for row, index in zip(pooled, (2, 0), strict=True):
        alone = collate([utterances[index]], network.config).to(torch.float64)
        np.testing.assert_allclose(row, network.answer(alone)[0].detach().numpy(), atol=1e-9)


@pytest.mark.parametrize(
    ("step", "share"), [(0, 0.2), (3, 0.8), (10, 1.0), (25, 0.5), (39, 0.00274)]
)
def test_warm_up_and_cosine(step: int, share: float) -> None:
    stage = Stage1(
        epochs=1, decay_epochs=3, batch_size=4, learning_rate=2.0, dropout=0.0, clip=1.0,
        decay="cosine", warm_up=4,
    )  # fmt: skip
    assert stage.rate_at(step, 10) == pytest.approx(2.0 * share, rel=1e-2)
