"""The linear specialist: one balanced logistic regression per pattern on pooled statistics.

What any network has to beat: a corpus on which it does not is better served by this.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Modality
from ifmmin.train.config import ModelConfig
from ifmmin.train.corpus import Utterance
from ifmmin.train.feed import Feed
from ifmmin.train.network import EmotionNetwork, Output, pattern_index

_AT_ONCE = 64


class LinearNetwork(EmotionNetwork):
    """Logits of a pattern p = W_p [s_m for m in p] + b_p, s_m the standardised statistics.

    Embeddings are the statistics themselves, padded with zeros to a common width E; the weights
    (7, C, M, E) are zero where a pattern lacks a modality and in the padding.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.width = max(self.encoder(m).pooled_size for m in MODALITIES)
        classes = len(config.labels)
        shape = (len(ALL_PATTERNS), classes, len(MODALITIES), self.width)
        self.weight = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(len(ALL_PATTERNS), classes))

    def embed(self, pooled: Tensor, modality: Modality) -> Tensor:
        """(B, P) -> (B, E), padded with zeros."""
        return nn.functional.pad(pooled, (0, self.width - pooled.shape[1]))

    def missing_embeddings(self) -> Tensor:
        """Zeros (M, E): no weight reads them."""
        return self.weight.new_zeros(len(MODALITIES), self.width)

    def head(self, h: Tensor, present: Tensor, evidence: Tensor | None = None) -> Output:
        """Each utterance's logits by the regression of its pattern."""
        every = torch.einsum("bme,pcme->bpc", h, self.weight) + self.bias
        return Output(every[torch.arange(len(h)), pattern_index(present)])

    def set_dropout(self, probability: float) -> None:
        """There is none."""


def fit_linear(network: LinearNetwork, utterances: Sequence[Utterance]) -> None:
    """Fit every pattern's regression (L2, C = 1, balanced classes) on those that have all of it."""
    from sklearn.linear_model import LogisticRegression

    batches = list(Feed(network, utterances).in_order(_AT_ONCE))
    with torch.no_grad():
        h = torch.cat([network.embeddings(batch) for batch in batches]).double().numpy()
    present = torch.cat([batch.present for batch in batches]).numpy()
    labels = np.array([u.label for u in utterances])
    for index, pattern in enumerate(ALL_PATTERNS):
        inside = [MODALITIES.index(m) for m in pattern]
        rows = present[:, inside].all(axis=1)
        seen = np.unique(labels[rows])
        if len(seen) < len(network.config.labels):
            lacking = sorted(set(range(len(network.config.labels))) - set(seen.tolist()))
            names = ", ".join(network.config.labels[c] for c in lacking)
            raise CorpusError(f"no training utterance of class {names} has pattern {pattern}")
        regression = LogisticRegression(class_weight="balanced", max_iter=5000)
        regression.fit(h[rows][:, inside].reshape(rows.sum(), -1), labels[rows])
        weight = regression.coef_.reshape(-1, len(inside), network.width)
        bias = regression.intercept_
        if len(weight) == 1:  # two classes: scikit-learn gives the log-odds of the second
            weight, bias = np.concatenate([-weight, weight]) / 2, np.append(-bias, bias) / 2
        with torch.no_grad():
            network.weight[index][:, inside] = torch.from_numpy(weight).float()
            network.bias[index] = torch.from_numpy(bias).float()
