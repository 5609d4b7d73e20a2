"""Batches: each utterance once a pass, of similar lengths, the same seed the same order."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ifmmin.train.batch import collate
from ifmmin.train.feed import Feed, endless_rows
from ifmmin.train.schedule import Stage1


class _Lengths:
    """Stands for a feed: utterances that cost these numbers."""

    sorts = True

    def __init__(self, costs: list[int]) -> None:
        self._costs = np.array(costs)

    def __len__(self) -> int:
        return len(self._costs)

    def costs(self) -> np.ndarray:
        return self._costs


@given(
    costs=st.lists(st.integers(1, 100), min_size=2, max_size=60),
    size=st.integers(2, 9),
    buckets=st.integers(1, 4),
)
def test_a_pass_holds_every_utterance_once(costs: list[int], size: int, buckets: int) -> None:
    feed: Any = _Lengths(costs)
    rows = endless_rows(feed, size, buckets, np.random.default_rng(0))
    per_pass = -(-len(costs) // min(size, len(costs)))
    for _ in range(2):
        batches = list(islice(rows, per_pass))
        assert sorted(np.concatenate(batches)) == list(range(len(costs)))
        assert max(len(batch) for batch in batches) <= size


def test_buckets_save_padding_and_still_shuffle() -> None:
    costs = np.random.default_rng(0).integers(1, 100, 640).tolist()
    feed: Any = _Lengths(costs)

    def waste(buckets: int) -> float:
        batches = islice(endless_rows(feed, 32, buckets, np.random.default_rng(0)), 20)
        spent = [np.array(costs)[batch] for batch in batches]
        return float(sum((x.max() - x).sum() for x in spent))

    assert waste(10) < 0.3 * waste(1)
    rows = endless_rows(feed, 32, 10, np.random.default_rng(0))
    first, second = (np.concatenate(list(islice(rows, 20))) for _ in range(2))
    assert not np.array_equal(first, second)


def test_pooled_batches_answer_like_padded_ones(make_network: Any, make_utterance: Any) -> None:
    network = make_network("statistics").double()
    rng = np.random.default_rng(0)
    utterances = [make_utterance(rng, {"a": 3 + i, "t": 5 + i}) for i in range(4)]
    feed = Feed(network, utterances)
    assert feed.batch(np.arange(4)).features == {}
    pooled = network.answer(feed.batch(np.array([2, 0]))).detach().numpy()
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


def test_batches_of_a_group_do_not_come_by_length() -> None:
    costs = np.random.default_rng(0).integers(1, 1000, 320)
    feed: Any = _Lengths(costs.tolist())
    batches = list(islice(endless_rows(feed, 32, 10, np.random.default_rng(0)), 10))
    means = [costs[batch].mean() for batch in batches]
    assert means != sorted(means)
