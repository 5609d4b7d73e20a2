"""Masks of missing slots and frames: exact rates, one modality left, the same for every model."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from small_networks import small_network, small_utterance
from small_recipe import small

from ifmmin.runtime.errors import InputError, RecipeError
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.config import Stage1, Stage2
from ifmmin.train.data.corpus import collate
from ifmmin.train.missing import SlotDraws, frames_left, parse_rates, slots_left
from ifmmin.train.model.loader import BatchLoader
from ifmmin.train.model.losses import Objective, draw_slots
from ifmmin.train.trainer import Validation, train

RATES = st.floats(0.0, 1.0)
SEEDS = st.integers(0, 5)


@st.composite
def presences(draw: st.DrawFn) -> np.ndarray:
    """(N, M) bool with something present everywhere, as corpora lack modalities by nature."""
    count, width = draw(st.integers(1, 40)), draw(st.integers(1, 3))
    row = st.lists(st.booleans(), min_size=width, max_size=width).filter(any)
    return np.array(draw(st.lists(row, min_size=count, max_size=count)))


def _slots(present: np.ndarray, seed: int = 0) -> SlotDraws:
    count, width = present.shape
    return SlotDraws.of_names([f"u{i}" for i in range(count)], MODALITIES[:width], seed)


@given(presences(), RATES, SEEDS)
def test_the_rate_is_met_to_a_slot_and_one_modality_is_left(
    present: np.ndarray, rate: float, seed: int
) -> None:
    left = slots_left(present, rate, _slots(present, seed))
    assert left.any(axis=1).all()
    assert not (left & ~present).any()
    gone, lacking = (~left).sum(), (~present).sum()
    most = present.size - len(present)
    assert abs(gone - np.clip(rate * present.size, lacking, most)) <= 0.5 + 1e-9


@given(presences(), RATES, RATES, SEEDS)
def test_what_is_missing_at_a_rate_is_missing_at_a_higher_one(
    present: np.ndarray, one: float, other: float, seed: int
) -> None:
    low, high = (slots_left(present, r, _slots(present, seed)) for r in sorted((one, other)))
    assert not (high & ~low).any()


@given(presences(), RATES, SEEDS, st.randoms(use_true_random=False))
def test_masks_follow_names_whatever_their_order(
    present: np.ndarray, rate: float, seed: int, shuffler: object
) -> None:
    order = np.random.default_rng(seed).permutation(len(present))
    names = [f"u{i}" for i in range(len(present))]
    columns = MODALITIES[: present.shape[1]]
    slots = SlotDraws.of_names([names[i] for i in order], columns, seed)
    expected = slots_left(present, rate, _slots(present, seed))[order]
    np.testing.assert_array_equal(slots_left(present[order], rate, slots), expected)


def test_every_modality_is_hit_alike_and_another_seed_draws_others() -> None:
    present = np.ones((3000, 3), dtype=bool)
    left = slots_left(present, 0.4, _slots(present))
    # Of 3,600 slots that go a third is of each modality; 5 deviations of that are 141.
    assert np.abs((~left).sum(axis=0) - 1200).max() < 141
    assert (left != slots_left(present, 0.4, _slots(present, seed=1))).any()
    # An utterance loses 0, 1 or 2 as two slots do that go with 0.6 each, the third being kept.
    shares = np.bincount((~left).sum(axis=1), minlength=4) / 3000
    np.testing.assert_allclose(shares, [0.16, 0.48, 0.36, 0.0], atol=0.05)


def test_a_rate_past_the_limit_runs_at_it() -> None:
    for width, limit in ((3, 2 / 3), (2, 1 / 2), (1, 0.0)):
        present = np.ones((30, width), dtype=bool)
        left = slots_left(present, 0.9, _slots(present))
        assert (~left).mean() == pytest.approx(limit)
        assert (left.sum(axis=1) == 1).all()


def test_an_independent_draw_of_each_slot_would_break_the_rule() -> None:
    """The control: what the properties above would say of masks without the rule."""
    left = np.random.default_rng(0).random((40, 3)) >= 0.6
    assert not left.any(axis=1).all()
    assert abs((~left).sum() - 0.6 * left.size) > 0.5


@given(st.integers(1, 200), RATES, st.sampled_from(["random", "run"]), SEEDS)
def test_frames_are_missing_at_the_rate_and_one_is_left(
    length: int, rate: float, manner: str, seed: int
) -> None:
    left = frames_left(length, rate, manner, name="u", modality=Modality.A, seed=seed)  # type: ignore[arg-type]
    missing = int((~left).sum())
    assert len(left) == length
    assert left.any()
    assert abs(missing - min(rate * length, length - 1)) < 1 + 1e-9
    if manner == "run" and missing:
        gone = np.flatnonzero(~left)
        assert gone[-1] - gone[0] + 1 == missing


def test_frames_of_many_are_missing_at_the_rate_in_sum() -> None:
    lengths = range(3, 203)
    for manner in ("random", "run"):
        gone = [
            (~frames_left(n, 0.31, manner, name=f"u{n}", modality=Modality.T, seed=0)).sum()
            for n in lengths
        ]
        assert sum(gone) / sum(lengths) == pytest.approx(0.31, abs=0.002)


def test_frames_at_random_are_missing_at_every_higher_rate_and_differ_by_modality() -> None:
    low, high = (
        frames_left(50, rate, "random", name="u", modality=Modality.A, seed=0)
        for rate in (0.2, 0.6)
    )
    assert not (high & ~low).any()
    other = frames_left(50, 0.6, "random", name="u", modality=Modality.V, seed=0)
    assert (high != other).any()


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("0:0.7:0.1", (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
        ("0.3,0.1, 0.3", (0.1, 0.3)),
        ("0.5", (0.5,)),
        ("0:1:0.4", (0, 0.4, 0.8)),
    ],
)
def test_rates_are_ranges_and_lists(text: str, rates: tuple[float, ...]) -> None:
    assert parse_rates(text, "--missing-rate") == rates


@pytest.mark.parametrize(
    "text",
    ["", "a", "0.1,", "-0.1", "1.1", "nan", "0:1:0", "1:0:0.1", "0:1", "0:inf:1", "0:1:1e-9",
     "0:1:-1", "0:1:nan", "0:1:1e-320", "0:1e308:1e-5"],
)  # fmt: skip
def test_no_rates_are_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"--missing-rate: got .*wanted 1 to 101 rates"):
        parse_rates(text, "--missing-rate")


STAGE: dict[str, Any] = {
    "epochs": 1, "decay_epochs": 0, "batch_size": 16, "learning_rate": 1e-3, "dropout": 0.0,
    "clip": 0.5,
}  # fmt: skip


def test_a_stage_takes_patterns_or_rates() -> None:
    assert Stage1(**STAGE).missing_rates == ()
    assert Stage2(**STAGE, patterns=0.3).missing_rates == (0.3,)
    assert Stage2(**STAGE, patterns="0:0.4:0.2").missing_rates == (0.0, 0.2, 0.4)
    for wrong in ("some", 1.5, "0:2:1"):
        with pytest.raises(RecipeError, match=r"patterns: got .*; or one of full, incomplete, all"):
            Stage2(**STAGE, patterns=wrong)


@given(presences(), st.integers(0, 100))
def test_a_batch_is_at_one_of_the_rates(present: np.ndarray, seed: int) -> None:
    draws = np.random.default_rng(seed)
    left = draw_slots(torch.from_numpy(present), (0.0, 0.5), draws).numpy()
    lacking, most = (~present).sum(), present.size - len(present)
    possible = {np.clip(math.floor(r * present.size + 0.5), lacking, most) for r in (0.0, 0.5)}
    assert (~left).sum() in possible


def test_training_sees_what_the_rate_leaves() -> None:
    network = small_network("fusion")
    utterances = [
        replace(small_utterance(np.random.default_rng(i), {"a": 3, "v": 4, "t": 6}, i % 4),
                name=f"u{i}")
        for i in range(30)
    ]  # fmt: skip
    loader = BatchLoader(network, utterances)
    objective = Objective(network, Stage1(**STAGE, patterns=0.4), loader, np.random.default_rng(0))
    seen = objective.see(loader.batch(np.arange(30)))
    assert (~seen.present).sum() == 36
    left = torch.stack([seen.present[:, i] for i in range(3)], dim=1)
    absent = network.missing_embeddings()
    for index in range(3):
        same = (seen.h[:, index] == absent[index]).all(dim=1)
        torch.testing.assert_close(same, ~left[:, index])


def test_epochs_are_chosen_at_the_rates() -> None:
    recipe, corpus = small(model="linear")
    network, test = train(recipe, corpus, seed=0).network, corpus.parts["test"]
    validate = Validation(BatchLoader(network, test), network.config.incomplete, "ua", (0.2, 0.5))
    slots = SlotDraws.of_names([u.name for u in test], MODALITIES, 0)
    figures = []
    for rate in (0.2, 0.5):
        left = slots_left(np.ones((len(test), 3), dtype=bool), rate, slots)
        batch = collate(test, network.config).masked(torch.from_numpy(left))
        with torch.no_grad():
            answers = network.answer(batch).argmax(dim=1)
        figures.append(balanced_accuracy_score(batch.labels, answers))
    assert validate(network)["validation"] == pytest.approx(np.mean(figures))


def test_a_network_trains_and_chooses_epochs_at_rates() -> None:
    histories = [
        train(*small("stage2.patterns=0:0.6:0.2"), seed=0).history,
        train(*small("stage2.patterns=0:0.6:0.2"), seed=0).history,
        train(*small("stage2.patterns=0.6"), seed=0).history,
    ]
    assert histories[0] == histories[1]
    assert histories[0][-1] != histories[2][-1]
    assert all(0 < row["validation"] < 1 for row in histories[0])
