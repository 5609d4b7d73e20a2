"""Training speed at IEMOCAP's dimensions: our stage 2 beside the reference's layout.

The layout is our own implementation of what the published code computes in stage 2: batches in
random order padded with zeros, every encoder run on every utterance with missing modalities zeroed,
the text encoder as Conv2d over the whole feature width, the frozen teacher run on the complement
and on the whole batch in every step (facts: the method's paper and code; docs/method.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ifmmin.runtime.modality import INCOMPLETE_PATTERNS, MODALITIES, Modality
from ifmmin.train.config import Architecture, FeatureConfig, ModelConfig, Stage2
from ifmmin.train.data.corpus import Utterance, pattern_mask
from ifmmin.train.model.loader import BatchLoader, endless_rows
from ifmmin.train.model.losses import TaughtObjective, Teacher
from ifmmin.train.model.models import FusionNetwork, ImaginationNetwork
from ifmmin.train.model.network import MLP, Imagination
from ifmmin.train.trainer import build_optimiser, update

_ORDER = (Modality.A, Modality.T, Modality.V)
_COLUMN = (0, 2, 1)
DIMS = {Modality.A: 130, Modality.V: 342, Modality.T: 1024}
BATCH = 128
STEPS = 2
"""Updates per measured call."""


class _LstmMax(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(dim, 128, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.rnn(x)[0]
        return F.max_pool1d(outputs.transpose(1, 2), outputs.shape[1]).squeeze(2)


class _ConvText(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(1, 128, (k, dim)) for k in (3, 4, 5)])
        self.output = nn.Sequential(nn.Dropout(0.5), nn.Linear(384, 128), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        maps = [F.relu(conv(x[:, None])).squeeze(3) for conv in self.convolutions]
        pooled = [F.max_pool1d(m, m.shape[2]).squeeze(2) for m in maps]
        embedding: Tensor = self.output(torch.cat(pooled, dim=1))
        return embedding


class _Encoders(nn.Module):
    def __init__(self, dims: dict[Modality, int]) -> None:
        super().__init__()
        self.by_modality = nn.ModuleDict(
            {m.value: (_ConvText if m is Modality.T else _LstmMax)(dims[m]) for m in _ORDER}
        )
        self.shared = MLP((128, 128, 128), nn.LeakyReLU, end_active=True)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        h = [self.by_modality[m.value](x) for m, x in zip(_ORDER, inputs, strict=True)]
        return torch.cat(h, dim=1), torch.cat([self.shared(x) for x in h], dim=1)


class EagerTrainer:
    """Stage 2 of the reference's layout; `step` makes one update on some utterances."""

    def __init__(self, dims: dict[Modality, int], classes: int) -> None:
        self._student, self._teacher = _Encoders(dims), _Encoders(dims).eval()
        self._teacher.requires_grad_(False)
        self._imagination = Imagination(Architecture(), "cascade", 3)
        self._classifier = MLP((320, 128, 128, classes), nn.ReLU, dropout=0.5)
        self._parts: list[nn.Module] = [
            *self._student.by_modality.values(), self._student.shared, self._imagination,
            self._classifier,
        ]  # fmt: skip
        parameters = [p for part in self._parts for p in part.parameters()]
        self._optimiser = torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999))
        self._draws = np.random.default_rng(0)
        self._patterns = pattern_mask(INCOMPLETE_PATTERNS)

    def step(self, utterances: Sequence[Utterance]) -> float:
        """One update; returns the loss."""
        whole = [
            pad_sequence(
                [torch.from_numpy(u.features[m].astype(np.float32)) for u in utterances],
                batch_first=True,
            )
            for m in _ORDER
        ]
        drawn = self._draws.integers(len(self._patterns), size=len(utterances))
        keep = self._patterns[torch.from_numpy(drawn)][:, _COLUMN].float()
        given = [x * keep[:, i, None, None] for i, x in enumerate(whole)]
        reverse = [x * (1 - keep[:, i, None, None]) for i, x in enumerate(whole)]
        h, invariant = self._student(given)
        latents, imagined = self._imagination(h, invariant)
        labels = torch.tensor([u.label for u in utterances])
        with torch.no_grad():
            target = self._teacher(reverse)[0]
            whole_invariant = self._teacher(whole)[1]
        loss = F.cross_entropy(self._classifier(latents), labels)
        loss = loss + F.mse_loss(imagined, target) + 100 * F.mse_loss(invariant, whole_invariant)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for part in self._parts:
            nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        self._optimiser.step()
        return float(loss.detach())


def draw_utterances(count: int, seed: int = 0) -> list[Utterance]:
    """Utterances with the spread of lengths of IEMOCAP: acoustic about 45 +- 30 frames at 10 a
    second, 50 visual frames, 22 tokens."""
    rng = np.random.default_rng(seed)
    acoustic = np.clip(rng.lognormal(np.log(38.0), 0.6, count), 6, 340).astype(int)
    made = []
    for index in range(count):
        frames = {Modality.A: int(acoustic[index]), Modality.V: 50, Modality.T: 22}
        features = {
            m: rng.standard_normal((frames[m], DIMS[m])).astype(np.float32) for m in MODALITIES
        }
        made.append(Utterance(f"drawn-{index}", features, index % 4))
    return made


def our_steps(utterances: list[Utterance]) -> Callable[[], None]:
    """STEPS updates of our stage 2, teacher cached as in training."""
    features = {m: FeatureConfig(dim=dim) for m, dim in DIMS.items()}
    config = ModelConfig(labels=("a", "h", "n", "s"), features=features)
    student, teacher = ImaginationNetwork(config), FusionNetwork(config.with_model("fusion"))
    stage = Stage2(
        epochs=1, decay_epochs=0, batch_size=BATCH, learning_rate=2e-4, beta1=0.5, dropout=0.5,
        clip=1.0,
    )  # fmt: skip
    draws = np.random.default_rng(0)
    loader = BatchLoader(student, utterances)
    objective = TaughtObjective(student, stage, loader, draws, Teacher(teacher, loader))
    optimiser = build_optimiser(objective)
    rows = endless_rows(loader, BATCH, 8, draws)

    def run() -> None:
        student.train()
        for _ in range(STEPS):
            chosen = next(rows)
            terms = objective.losses(loader.batch(chosen), chosen)
            update(objective, optimiser, sum(terms.values()))  # type: ignore[arg-type]

    return run


def eager_steps(utterances: list[Utterance]) -> Callable[[], None]:
    """STEPS updates of the reference's layout on batches in random order."""
    trainer = EagerTrainer(DIMS, 4)
    rng = np.random.default_rng(0)

    def run() -> None:
        for _ in range(STEPS):
            trainer.step([utterances[i] for i in rng.permutation(len(utterances))[:BATCH]])

    return run
