"""Metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from ifmmin.train.metrics import measure


@given(seed=st.integers(0, 10_000), size=st.integers(1, 60))
def test_equal_to_scikit_learn(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((size, 4)), rng.integers(0, 4, size)
    answers, seen = logits.argmax(1), np.unique(labels)
    found = measure(logits, labels)
    assert np.isclose(found.wa, accuracy_score(labels, answers))
    recall = recall_score(labels, answers, labels=seen, average="macro")
    assert np.isclose(found.ua, recall)
    assert np.isclose(found.f1, f1_score(labels, answers, average="macro"))
    assert found.confusion == confusion_matrix(labels, answers, labels=range(4)).tolist()


def test_calibration_error_of_a_sure_and_wrong_half() -> None:
    logits = np.array([[50.0, 0.0], [50.0, 0.0]])
    assert np.isclose(measure(logits, np.array([0, 1])).ece, 0.5)
