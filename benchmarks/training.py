"""Training speed at IEMOCAP's dimensions: our stage 2 beside the reference's layout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ifmmin.benchmarks.peers.eager_training import EagerTrainer
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.config import FeatureConfig, ModelConfig
from ifmmin.train.corpus import Utterance
from ifmmin.train.feed import Feed, endless_rows
from ifmmin.train.models import FusionNetwork, ImaginationNetwork
from ifmmin.train.objectives import TaughtObjective
from ifmmin.train.optimise import build_optimiser, update
from ifmmin.train.schedule import Stage2
from ifmmin.train.teacher import Teacher

DIMS = {Modality.A: 130, Modality.V: 342, Modality.T: 1024}
BATCH = 128
STEPS = 2
"""Updates per measured call."""


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
    feed = Feed(student, utterances)
    objective = TaughtObjective(student, stage, feed, draws, Teacher(teacher, feed))
    optimiser = build_optimiser(objective)
    rows = endless_rows(feed, BATCH, 8, draws)

    def run() -> None:
        student.train()
        for _ in range(STEPS):
            chosen = next(rows)
            terms = objective.losses(feed.batch(chosen), chosen)
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
