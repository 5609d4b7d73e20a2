"""How the stages are optimised and what their losses weigh."""

from __future__ import annotations

import math

import msgspec

from ifmmin.runtime.errors import RecipeError
from ifmmin.train.checks import one_of, require_above, require_at_least, require_probability

PATTERN_SETS = ("full", "incomplete", "all", "every")
DECAYS = ("linear", "cosine")
KEEP = ("best", "last")


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one stage is optimised, with Adam; the defaults are the reference's ways."""

    epochs: int
    """Epochs at the constant learning rate."""
    decay_epochs: int
    """Epochs after them, in which the learning rate falls towards zero."""
    steps_per_epoch: int | None = None
    """Updates between two validations; none: one pass over the training part."""
    batch_size: int
    """Utterances per update."""
    learning_rate: float
    """Adam's step size at its highest; weights move by about as much in an update."""
    decay: str = "linear"
    """`linear`: epoch by epoch, as the reference; `cosine`: update by update."""
    warm_up: int = 0
    """Updates over which the learning rate first rises from zero."""
    beta1: float = 0.9
    """Adam's first moment decay."""
    beta2: float = 0.999
    """Adam's second moment decay."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW) of matrices; biases are left alone."""
    dropout: float
    """Probability in the classifier."""
    clip: float
    """Largest gradient norm of each sub-network."""
    class_balance: bool = False
    """Weigh the cross-entropy of class c by N / (C N_c), counts of the training part."""
    label_smoothing: float = 0.0
    """Share of the target that cross-entropy spreads over all classes."""
    average: float = 0.0
    """Decay of the exponential average of the weights that is kept; 0: the weights themselves."""
    keep: str = "best"
    """`best`: the epoch of the best validation figure; `last`: the end of training."""
    patterns: str
    """Drawn uniformly per utterance: `full` (what an utterance has), the six `incomplete` ones, or
    `all` seven; `every`: no draw, each utterance counts under all seven."""
    cmd: float = 0.0
    """Weight of the CMD between the modalities' invariant features."""
    cmd_bounded: bool = False
    """CMD of the standardised and squashed features instead of the raw ones, which on small corpora
    shut the text encoder (docs/method.md)."""

    def __post_init__(self) -> None:
        if self.epochs + self.decay_epochs < 1 or min(self.epochs, self.decay_epochs) < 0:
            raise RecipeError("epochs and decay_epochs must be at least 0 and together at least 1")
        require_at_least(self, 2, "batch_size")
        if self.steps_per_epoch is not None:
            require_at_least(self, 1, "steps_per_epoch")
        require_at_least(self, 0, "warm_up", "weight_decay", "cmd")
        require_above(self, 0.0, "learning_rate", "clip")
        require_probability(self, "dropout", "beta1", "beta2", "label_smoothing", "average")
        one_of("decay", self.decay, DECAYS)
        one_of("keep", self.keep, KEEP)
        one_of("patterns", self.patterns, PATTERN_SETS)

    @property
    def total_epochs(self) -> int:
        """All epochs of the stage."""
        return self.epochs + self.decay_epochs

    def rate_at(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of an update, counted from 0."""
        epoch = step // steps_per_epoch + 1
        if self.decay == "linear":
            past = max(0, epoch - self.epochs)
            rate = self.learning_rate * (1.0 - past / (self.decay_epochs + 1))
        else:
            past = max(0, step - self.epochs * steps_per_epoch)
            share = past / max(1, self.decay_epochs * steps_per_epoch)
            rate = self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))
        return rate * min(1.0, (step + 1) / (self.warm_up + 1))


class Stage1(Schedule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Full modality: the teacher. Cross-entropy + cmd * CMD."""

    patterns: str = "full"


class Stage2(Schedule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Missing modality: as stage 1, + the terms that follow the teacher. For model `augmented` it
    is the only stage, without those terms."""

    patterns: str = "incomplete"
    imagination: float = 1.0
    """Weight of MSE(imagined, teacher embeddings of what is missing)."""
    imagination_of: str = "all"
    """MSE over `all` modalities, the present ones' target being the embedding of an absent one, as
    the reference; or over the `missing` ones only."""
    invariance: float = 100.0
    """Weight of MSE(H' of the student, H' of the teacher on the whole utterance); if-mmin only."""
    cycle: float = 2.0
    """Weight of MSE(h, what a second imagination module makes of the imagined); mmin only."""
    cycle_shared: bool = False
    """Whether that second module is the first one again."""
    distillation: float = 0.0
    """Weight of the cross-entropy against the teacher's answer to the whole utterance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "imagination", "invariance", "cycle", "distillation")
        one_of("imagination_of", self.imagination_of, ("all", "missing"))
