"""Trainer: the optimisation loop, the two stages of IF-MMIN, and the run directory they write.

Stage 1 trains a full-modality teacher, stage 2 the network that imagines what is missing. A run
holds checkpoint, resolved recipe, metrics, history, predictions and plots.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ifmmin.runtime.console import csv_row, log_line, progress
from ifmmin.runtime.errors import CorpusError, OutputError, RecipeError
from ifmmin.runtime.files import atomic_directory, require_writable
from ifmmin.runtime.modality import Modality, Pattern

from .checkpoint import save_checkpoint
from .config import ModelConfig, Schedule
from .data.corpus import Corpus, Utterance, column_statistics
from .evaluate import (
    Embedded,
    Report,
    Scores,
    active_shares,
    embed,
    labels_of,
    project,
    report,
    score,
    score_left,
    warn,
    write_predictions,
    write_projection,
)
from .metrics import measure
from .missing import SlotDraws, slots_left
from .model.encoders import StatisticsEncoder, frame_statistics
from .model.loader import BatchLoader, Rows, endless_rows
from .model.losses import ContrastiveObjective, Objective, TaughtObjective, Teacher
from .model.models import (
    ContrastiveNetwork,
    FusionNetwork,
    LinearNetwork,
    build_network,
    fit_linear,
    network_bytes,
)
from .model.network import EmotionNetwork
from .plots import draw_run
from .recipe import RECIPE_NAME, Recipe, dump_recipe

HistoryRow = dict[str, float | int]


class Validation:
    """The figure by which epochs are compared: mean on the validation part over some patterns, or
    over missing rates where a stage trains at those, with the masks of `evaluate --missing-rate`.

    Patterns of which no utterance has anything are left out. Raises CorpusError where that leaves
    none.
    """

    def __init__(
        self,
        loader: BatchLoader,
        patterns: Sequence[Pattern],
        figure: str,
        rates: Sequence[float] = (),
    ) -> None:
        self._feed = loader
        present = {m for utterance in loader.utterances for m in utterance.features}
        self._patterns = [p for p in patterns if present & p.present]
        self._figure = figure
        self._rates = rates
        if not self._patterns:
            raise CorpusError(
                "no validation utterance can be answered under "
                f"{', '.join(map(str, patterns))}, so no epoch is best; give some of them a place "
                "in the validation part"
            )

    def __call__(self, network: EmotionNetwork) -> dict[str, float]:
        """The figure and the share of active embedding units per modality."""
        embedded = embed(network, self._feed)
        labels = self._feed.labels.numpy()
        figures = [
            getattr(measure(found.logits, labels[found.rows]), self._figure)
            for found in self._scores(network, embedded)
        ]
        shares = {f"active_{m}": share for m, share in active_shares(network, embedded).items()}
        return {"validation": float(np.mean(figures)), **shares}

    def _scores(self, network: EmotionNetwork, embedded: Embedded) -> Iterable[Scores]:
        if not self._rates:
            return score(network, embedded, self._patterns).values()
        names = [utterance.name for utterance in self._feed.utterances]
        slots = SlotDraws.of_names(names, network.modalities, seed=0)
        lefts = (slots_left(embedded.present.numpy(), rate, slots) for rate in self._rates)
        return (score_left(network, embedded, torch.from_numpy(left)) for left in lefts)


def run_stage(
    number: int,
    objective: Objective,
    loader: BatchLoader,
    validate: Validation,
    *,
    buckets: int,
    draws: np.random.Generator,
) -> list[HistoryRow]:
    """Optimise the objective's network and leave it at the weights that the schedule keeps."""
    network, stage = objective.network, objective.stage
    network.set_dropout(stage.dropout)
    batches = endless_rows(loader, stage.batch_size, buckets, draws)
    steps = stage.steps_per_epoch or math.ceil(len(loader) / stage.batch_size)
    optimiser = build_optimiser(objective)
    history: list[HistoryRow] = []
    best, kept = -math.inf, network.state_dict()
    with progress(f"stage {number}", stage.total_epochs) as advance:
        for epoch in range(1, stage.total_epochs + 1):
            network.train()
            terms = _run_epoch(objective, loader, batches, epoch, steps, optimiser)
            _require_finite(terms, number, epoch)
            found = validate(network)
            figure = found["validation"]
            if figure > best or stage.keep == "last":
                kept = copy.deepcopy(network.state_dict())
            best = max(best, figure)
            rate = stage.rate_at(epoch * steps - 1, steps)
            history.append({"stage": number, "epoch": epoch, "rate": rate, **terms, **found})
            kept_one = "last is kept" if stage.keep == "last" else f"best {best:.3f}"
            advance(f"loss {sum(terms.values()):.3f}, validation {figure:.3f}, {kept_one}")
    network.load_state_dict(kept)
    return history


def build_optimiser(objective: Objective) -> torch.optim.Optimizer:
    """AdamW over all parts of the objective, as its schedule says."""
    stage = objective.stage
    parameters = [p for part in objective.parts().values() for p in part.parameters()]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": stage.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(stage.beta1, stage.beta2))


def _run_epoch(
    objective: Objective,
    loader: BatchLoader,
    batches: Iterator[Rows],
    epoch: int,
    steps: int,
    optimiser: torch.optim.Optimizer,
) -> dict[str, float]:
    """One epoch of updates; returns the mean of every loss term."""
    totals: dict[str, torch.Tensor] = {}
    for step in range((epoch - 1) * steps, epoch * steps):
        for group in optimiser.param_groups:
            group["lr"] = objective.stage.rate_at(step, steps)
        rows = next(batches)
        terms = objective.losses(loader.batch(rows), rows)
        update(objective, optimiser, torch.stack(list(terms.values())).sum())
        for name, value in terms.items():
            totals[name] = totals.get(name, torch.zeros(())) + value.detach()
    return {name: float(total) / steps for name, total in totals.items()}


def update(objective: Objective, optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step down the gradient of `loss`, clipped for every sub-network apart."""
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for part in objective.parts().values():
        nn.utils.clip_grad_norm_(part.parameters(), objective.stage.clip)
    optimiser.step()


def _require_finite(terms: dict[str, float], stage: int, epoch: int) -> None:
    if not all(math.isfinite(value) for value in terms.values()):
        raise RecipeError(
            f"the loss became {terms} in stage {stage}, epoch {epoch}; "
            "lower the learning rate or the weight of the term that grew"
        )


_Network = TypeVar("_Network", bound=EmotionNetwork)


@dataclass(frozen=True)
class Trained:
    """What training gives."""

    network: EmotionNetwork
    history: list[HistoryRow]
    """A row per epoch: stage, epoch, learning rate, mean of every loss term, validation figure,
    share of active embedding units per modality."""


def train(recipe: Recipe, corpus: Corpus, *, seed: int) -> Trained:
    """Train the recipe's network on a corpus. The same seed and thread count give the same bits."""
    torch.manual_seed(seed)
    session = _Session(recipe, corpus, np.random.default_rng(seed))
    model = recipe.network.model
    if model == "linear":
        return session.linear()
    if model == "augmented":
        return session.augmented()
    if model == "fusion":
        return session.fusion("fusion")
    return session.imagining()


def configure(recipe: Recipe, corpus: Corpus) -> ModelConfig:
    """The network of a recipe for a corpus: its classes, its modalities, its kind of values.

    Raises RecipeError where the recipe has nothing for one of them.
    """
    architecture = recipe.network.fitted(corpus.features)
    transforms = {
        modality: msgspec.structs.replace(transform, powers=(1.0,))
        if transform.intensities and _signed(corpus, modality)
        else transform
        for modality, transform in architecture.transforms.items()
    }
    architecture = msgspec.structs.replace(architecture, transforms=transforms)
    return ModelConfig(labels=corpus.labels, features=corpus.features, architecture=architecture)


def _signed(corpus: Corpus, modality: Modality) -> bool:
    """Whether training frames of the modality have values below 0."""
    frames = (u.features.get(modality) for u in corpus.parts["train"])
    return any(x is not None and bool((x < 0).any()) for x in frames)


class _Session:
    """The corpus, the configuration and the draws of one training."""

    def __init__(self, recipe: Recipe, corpus: Corpus, draws: np.random.Generator) -> None:
        self._recipe = recipe
        self._corpus = corpus
        self._draws = draws
        self._config = configure(recipe, corpus)

    def linear(self) -> Trained:
        network = LinearNetwork(self._config)
        set_statistics(network, self._corpus)
        fit_linear(network, self._corpus.parts["train"], self._corpus.parts["validation"])
        return Trained(network.eval(), [])

    def fusion(self, model: str) -> Trained:
        network = self._prepare(FusionNetwork(self._config.with_model(model)))
        loader = BatchLoader(network, self._corpus.parts["train"])
        objective = Objective(network, self._recipe.stage1, loader, self._draws)
        return Trained(network, self._run(1, objective, loader))

    def contrastive(self) -> Trained:
        network = self._prepare(ContrastiveNetwork(self._config))
        loader = BatchLoader(network, self._corpus.parts["train"])
        objective = ContrastiveObjective(network, self._recipe.stage1, loader, self._draws)
        return Trained(network, self._run(1, objective, loader))

    def augmented(self) -> Trained:
        assert self._recipe.stage2 is not None
        network = self._prepare(FusionNetwork(self._config))
        loader = BatchLoader(network, self._corpus.parts["train"])
        objective = Objective(network, self._recipe.stage2, loader, self._draws)
        return Trained(network, self._run(2, objective, loader))

    def imagining(self) -> Trained:
        assert self._recipe.stage2 is not None
        architecture = self._config.architecture
        # MMIN's teacher fuses without invariant features, as the baseline `augmented` does.
        first = (
            self.contrastive() if architecture.contrasts
            else self.fusion("fusion" if architecture.invariant else "augmented")
        )  # fmt: skip
        teacher = first.network
        assert isinstance(teacher, (FusionNetwork, ContrastiveNetwork))
        student = self._prepare(build_network(self._config))
        for part in ("encoders", "invariant"):
            if hasattr(teacher, part):
                student.get_submodule(part).load_state_dict(
                    teacher.get_submodule(part).state_dict()
                )
        loader = BatchLoader(student, self._corpus.parts["train"])
        objective = TaughtObjective(
            student, self._recipe.stage2, loader, self._draws, Teacher(teacher, loader)
        )
        return Trained(student, first.history + self._run(2, objective, loader))

    def _prepare(self, network: _Network) -> _Network:
        set_statistics(network, self._corpus)
        network.reference_batches = self._recipe.reference_batches
        return network

    def _run(self, number: int, objective: Objective, loader: BatchLoader) -> list[HistoryRow]:
        stage: Schedule = objective.stage
        config = self._config
        patterns = config.patterns[-1:] if stage.patterns == "full" else config.incomplete
        held_out = BatchLoader(objective.network, self._corpus.parts["validation"])
        history = run_stage(
            number,
            objective,
            loader,
            Validation(held_out, patterns, self._recipe.select, stage.missing_rates),
            buckets=self._recipe.length_buckets,
            draws=self._draws,
        )
        objective.network.eval()
        return history


def set_statistics(network: EmotionNetwork, corpus: Corpus) -> None:
    """Give the network the standardisation of frames, and of statistics where it pools those.

    With sequence encoders, only modalities that the corpus standardises are. What raw features are
    like is kept of all.
    """
    train = corpus.parts["train"]
    for modality in network.modalities:
        network.observed(modality).watch(train, modality)
        encoder = network.encoder(modality)
        if isinstance(encoder, StatisticsEncoder) or modality in corpus.statistics:
            config = network.config.architecture.transforms.get(modality)
            network.normaliser(modality).take(frame_statistics(corpus, modality, config))
        if isinstance(encoder, StatisticsEncoder):
            encoder.weigh_as(network.normaliser(modality))
            encoder.take(column_statistics(_pooled_frames(network, encoder, modality, train)))


def _pooled_frames(
    network: EmotionNetwork,
    encoder: StatisticsEncoder,
    modality: Modality,
    utterances: Sequence[Utterance],
) -> NDArray[np.float32]:
    """Statistics (N, P) of the utterances that have a modality, before they are standardised."""
    pooled = []
    for utterance in utterances:
        if modality in utterance.features:
            raw = torch.from_numpy(utterance.features[modality].astype(np.float32))[None]
            lengths = torch.tensor([raw.shape[1]])
            pooled.append(encoder.statistics(network.frames(raw, modality), lengths).numpy())
    return np.concatenate(pooled)


CHECKPOINT_NAME = "model.safetensors"
METRICS_NAME = "metrics.json"
HISTORY_NAME = "history.csv"
PREDICTIONS_NAME = "predictions.csv"
PROJECTION_NAME = "projection.csv"
PLOTS_NAME = "plots"


def fit(
    recipe: Recipe,
    corpus: Corpus,
    *,
    fold: int,
    seed: int,
    out: Path,
    overwrite: bool = False,
    plots: bool = True,
) -> Report:
    """Train, calibrate, measure on the test part once, and write the run.

    plots: also draw losses, confusion and projection, a second's work.
    Raises OutputError before training when `out` is in use and `overwrite` does not allow it.
    """
    size = network_bytes(configure(recipe, corpus)) + _BESIDE_BYTES
    check_free(out, overwrite=overwrite, size=size)
    trained = train(recipe, corpus, seed=seed)
    found = report(trained.network, corpus)
    warn(found.metrics["health"])
    training = {
        "recipe": msgspec.to_builtins(recipe),
        "corpus": corpus.name,
        "fold": fold,
        "seed": seed,
        "prior": class_shares(labels_of(corpus.parts["train"]), len(corpus.labels)),
        "metrics": found.metrics,
    }
    test, labels = corpus.parts["test"], corpus.labels
    points = project(trained.network, found.embedded, test, labels)
    try:
        with atomic_directory(out) as part:
            write_run(part, trained, recipe, training)
            write_predictions(part / PREDICTIONS_NAME, found.scores, test, labels)
            if points:
                write_projection(part / PROJECTION_NAME, points)
            if plots:
                (part / PLOTS_NAME).mkdir()
                draw_run(part / PLOTS_NAME, trained.history, found.metrics, points, labels)
    except OutputError as error:
        raise OutputError(f"{error}; {_rescued(trained, recipe, training)}") from error
    except Exception:
        log_line(f"error: {_rescued(trained, recipe, training)}", "error")
        raise
    return found


_BESIDE_BYTES = 8 << 20
"""What a run holds beside its checkpoint, in round numbers."""


def _rescued(trained: Trained, recipe: Recipe, training: dict[str, Any]) -> str:
    """Where a training that could not be written is kept: hours must not be lost with a disk."""
    try:
        place = Path(tempfile.mkdtemp(prefix="ifmmin-run-"))
        write_run(place, trained, recipe, training)
    except (OSError, OutputError) as error:
        return f"nor could the trained network be kept elsewhere ({error})"
    return f"the trained network is kept in {place}"


def check_free(out: Path, *, overwrite: bool, size: int = 1) -> None:
    """OutputError when something is at `out` already, or when `size` bytes cannot be put there."""
    require_writable(out, size)
    if out.exists() and not out.is_dir():
        raise OutputError(f"cannot write {out}: a file is in the way; choose another --out")
    if out.is_dir() and any(out.iterdir()):
        if not (out / CHECKPOINT_NAME).is_file():
            raise OutputError(f"{out} is in use by something else; choose another --out")
        if not overwrite:
            raise OutputError(f"{out} holds a run; choose another --out or add --overwrite")


def class_shares(labels: NDArray[np.int64], classes: int) -> list[float]:
    """How often each class occurs: what is known of an utterance of which nothing is present."""
    counts = np.bincount(labels, minlength=classes)
    return [float(share) for share in counts / counts.sum()]


def write_run(folder: Path, trained: Trained, recipe: Recipe, training: dict[str, Any]) -> None:
    """Write the files of a run into an existing folder."""
    save_checkpoint(folder / CHECKPOINT_NAME, trained.network, training)
    (folder / RECIPE_NAME).write_text(dump_recipe(recipe), encoding="utf-8")
    # msgspec writes null for what is not a number, which JSON has no other word for.
    text = msgspec.json.format(msgspec.json.encode(training["metrics"]), indent=2)
    (folder / METRICS_NAME).write_bytes(text + b"\n")
    _write_history(folder / HISTORY_NAME, trained.history)


def _write_history(path: Path, history: list[HistoryRow]) -> None:
    columns = list(dict.fromkeys(name for row in history for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(csv_row(columns) + "\n")
        for row in history:
            file.write(csv_row([row.get(name, "") for name in columns]) + "\n")
