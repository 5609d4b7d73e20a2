"""Configuration of a network and of its training, and the checks of its numbers.

The architecture travels inside the checkpoint; messages name the field.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal, get_args

import msgspec

from ifmmin.runtime.errors import InputError, RecipeError
from ifmmin.runtime.frontends.spec import FrontEndSpec
from ifmmin.runtime.modality import MODALITIES, Modality, Pattern, incomplete_patterns, patterns_of
from ifmmin.runtime.prediction import check_labels

from .missing import parse_rates


def one_of(name: str, value: str, known: Collection[str]) -> None:
    """RecipeError unless `value` is among the known ones."""
    if value not in known:
        raise RecipeError(f"{name} must be one of {', '.join(known)}; got {value[:99]!r}")


def require_at_least(owner: object, least: float, *names: str) -> None:
    """RecipeError unless the fields are `least` or more."""
    for name in names:
        value = getattr(owner, name)
        if not value >= least:
            raise RecipeError(f"{name} must be at least {least}, got {value}")


def require_above(owner: object, least: float, *names: str) -> None:
    """RecipeError unless the fields are more than `least`."""
    for name in names:
        value = getattr(owner, name)
        if not value > least:
            raise RecipeError(f"{name} must be above {least}, got {value}")


def require_probability(owner: object, *names: str) -> None:
    """RecipeError unless the fields are in [0, 1)."""
    for name in names:
        value = getattr(owner, name)
        if not 0 <= value < 1:
            raise RecipeError(f"{name} must be in [0, 1), got {value}")


def require_at_most(owner: object, most: float, *names: str) -> None:
    """RecipeError unless the fields, and all numbers in those that have several, are `most` or
    less: a recipe or a checkpoint of others may name any size, and sizes become memory."""
    for name in names:
        value = getattr(owner, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not number <= most:
                raise RecipeError(f"{name} must be at most {most:g}, got {number}")


_MOST_STEPS, _MOST_SIZE, _MOST_LAYERS = 10_000_000, 65_536, 64
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
    keep: str = "best"
    """`best`: the epoch of the best validation figure; `last`: the end of training."""
    patterns: str | float
    """Drawn uniformly per utterance: `full` (what an utterance has), the six `incomplete` ones, or
    `all` seven; `every`: no draw, each utterance counts under all seven. A missing rate, 0.3, or
    several, 0:0.7:0.1: each batch is at one of them, of `train/missing.py`."""
    cmd: float = 0.0
    """Weight of the CMD between the modalities' invariant features."""
    cmd_bounded: bool = False
    """CMD of the standardised and squashed features instead of the raw ones, which on small corpora
    shut the text encoder (docs/method.md)."""

    def __post_init__(self) -> None:
        if self.epochs + self.decay_epochs < 1 or min(self.epochs, self.decay_epochs) < 0:
            raise RecipeError("epochs and decay_epochs must be at least 0 and together at least 1")
        require_at_least(self, 2, "batch_size")
        names = ("epochs", "decay_epochs", "steps_per_epoch", "batch_size", "warm_up")
        require_at_most(self, _MOST_STEPS, *names)
        if self.steps_per_epoch is not None:
            require_at_least(self, 1, "steps_per_epoch")
        require_at_least(self, 0, "warm_up", "weight_decay", "cmd")
        require_above(self, 0.0, "learning_rate", "clip")
        require_probability(self, "dropout", "beta1", "beta2")
        one_of("decay", self.decay, DECAYS)
        one_of("keep", self.keep, KEEP)
        self.missing_rates  # noqa: B018 - which may be none

    @property
    def missing_rates(self) -> tuple[float, ...]:
        """Those that batches are drawn at; empty where patterns are drawn by their names."""
        if self.patterns in PATTERN_SETS:
            return ()
        try:
            return parse_rates(str(self.patterns), "patterns")
        except InputError as error:
            raise RecipeError(f"{error}; or one of {', '.join(PATTERN_SETS)}") from error

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

    patterns: str | float = "full"


class Stage2(Schedule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Missing modality: as stage 1, + the terms that follow the teacher. For model `augmented` it
    is the only stage, without those terms."""

    patterns: str | float = "incomplete"
    imagination: float = 1.0
    """Weight of MSE(imagined, teacher embeddings of what is missing)."""
    imagination_of: str = "all"
    """MSE over `all` modalities, the present ones' target being the embedding of an absent one, as
    the reference; or over the `missing` ones only."""
    invariance: float = 100.0
    """Weight of MSE(H' of the student, H' of the teacher on the whole utterance)."""
    cycle: float = 2.0
    """Weight of MSE(h, what a second imagination module makes of the imagined); mmin only."""
    cycle_shared: bool = False
    """Whether that second module is the first one again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "imagination", "invariance", "cycle")
        one_of("imagination_of", self.imagination_of, ("all", "missing"))


Form = Literal["cascade", "parallel"]
Model = Literal["if-mmin", "cif-mmin", "mmin", "augmented", "fusion", "linear"]
IMAGINATION_FORMS: tuple[Form, ...] = get_args(Form)
MODELS: tuple[Model, ...] = get_args(Model)
POOLINGS = ("maximum", "last", "attention", "sum")
ACTIVATIONS = ("leaky_relu", "sigmoid", "tanh")
FUNCTIONALS = ("mean", "std", "max", "min", "delta", "crest", "weighted_mean", "weighted_std")


class FeatureConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one modality's features are."""

    dim: int
    """Features per frame."""
    features: str = "unspecified"
    """What the numbers are, for the person who has to compute them at the edge."""
    frame_rate: float | None = None
    """Frames a second; None where frames have no fixed rate."""
    missing_length: int = 100
    """Frames of the all-zero input whose encoding stands for the missing modality."""
    normalised: bool = False
    """The caller has to standardise the features: the checkpoint has no statistics for them."""
    weight_column: int | None = None
    """Feature whose raw value, where positive, weighs the frames of the weighted functionals: of
    ComParE's low-level descriptors, 1 is the probability of voicing. None: nothing is weighted."""
    frontend: FrontEndSpec | None = None
    """What made the features of a signal; None where nobody said."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "dim", "missing_length")
        require_at_most(self, 1_000_000, "dim")
        require_at_most(self, 10_000, "missing_length")
        if self.frame_rate is not None:
            require_above(self, 0.0, "frame_rate")
            require_at_most(self, 1e9, "frame_rate")
        if self.weight_column is not None and not 0 <= self.weight_column < self.dim:
            raise RecipeError(
                f"weight_column must be in 0 to {self.dim - 1}, got {self.weight_column}"
            )
        if self.frontend is not None and self.frontend.dim != self.dim:
            raise RecipeError(
                f"the front-end {self.frontend.identity} makes {self.frontend.dim} features a "
                f"frame, got {self.dim}"
            )


class TransformConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to raw frames before they are standardised."""

    powers: tuple[float, ...] = (1.0,)
    """Exponents p of the signed powers sign(x) |x|^p that take the place of the values x, one after
    the other: D values become D * len(powers)."""
    unit: bool = False
    """Scale every frame to unit Euclidean length first."""
    intensities: bool = False
    """The powers are for features that are never below 0, and left out of a corpus where training
    frames have others: near 0 a small power tells of hardly more than a sign."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.powers) <= _MOST_LAYERS or not all(0 < p <= 99 for p in self.powers):
            raise RecipeError(f"powers wants one or more above 0, got {list(self.powers)}")


class StatisticsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An encoder that pools statistics over time in place of a sequence encoder."""

    functionals: tuple[str, ...]
    """Of every standardised feature over time: `mean`, `std`, `max`, `min`, `delta` (absolute
    differences of neighbouring frames, summed and divided by the number of frames), `crest`
    ((max - mean) / (std + 0.1): how far the peak stands out), `weighted_mean` and `weighted_std`
    (frames weighted by the corpus's `weight_column`; left out where it has none)."""
    dropout: float = 0.0
    """Probability with which a pooled value is dropped in training."""
    limit: float | None = None
    """Largest absolute value of a standardised statistic; what is beyond is cut off."""

    def __post_init__(self) -> None:
        if not self.functionals or len(set(self.functionals)) < len(self.functionals):
            raise RecipeError(
                f"functionals wants one or more different names, got {list(self.functionals)}"
            )
        for name in self.functionals:
            one_of("functionals", name, FUNCTIONALS)
        if self.limit is not None:
            require_above(self, 0.0, "limit")
        require_probability(self, "dropout")

    @property
    def weighs(self) -> bool:
        """Whether some functional weighs the frames."""
        return any(name.startswith("weighted") for name in self.functionals)

    def unweighted(self) -> StatisticsConfig:
        """Without the functionals that weigh the frames."""
        plain = tuple(name for name in self.functionals if not name.startswith("weighted"))
        return msgspec.structs.replace(self, functionals=plain)


class Architecture(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes and variants of the network; the defaults are the paper's."""

    model: str = "if-mmin"
    """`if-mmin`; `mmin`: imagination without invariant features, with a cycle loss (Zhao et al.
    2021); `cif-mmin`: invariant features by second encoders, taught by contrast (Liu et al. 2024);
    `augmented`: encoders and a classifier, trained on random patterns; `fusion`: encoders,
    invariant encoder and a classifier, trained on the full pattern; `linear`: one logistic
    regression per pattern on pooled statistics."""
    imagination: str = "cascade"
    """`cascade`: each block takes the one before it (the paper's equations and the reference since
    September 2024); `parallel`: each takes h + k H' (the reference at publication)."""
    embedding: int = 128
    """Width E of every embedding: LSTM state, TextCNN output, invariant feature."""
    pooling: str = "maximum"
    """LSTM outputs over time: `maximum`, `last`, `attention` (softmax over time) or `sum` (what
    the reference's attention comes to: its softmax runs over an axis of length 1)."""
    pooling_v: str | None = None
    """Pooling of v, where it differs from that of a."""
    text_channels: int = 128
    """Channels of each text convolution."""
    text_kernels: tuple[int, ...] = (3, 4, 5)
    """Heights of the text convolutions, in tokens."""
    text_dropout: float = 0.5
    """Dropout before the last layer of the TextCNN."""
    transforms: dict[Modality, TransformConfig] = {}
    """What happens to raw frames of a modality before they are standardised; default nothing."""
    statistics: dict[Modality, StatisticsConfig] | None = None
    """Statistics over time in place of LSTM and TextCNN, for all modalities or none."""
    invariant_layers: int = 2
    """Linear layers of the invariant encoder S."""
    invariant_activation: str = "leaky_relu"
    """After each of them: `leaky_relu`, `sigmoid` or `tanh`."""
    invariant_end_active: bool = True
    """Whether the activation also follows the last layer of S."""
    invariant_dropout: bool = False
    """Whether the stage's dropout also follows each activation of S."""
    blocks: int = 5
    """Residual autoencoder blocks of the imagination module."""
    block_sizes: tuple[int, ...] = (256, 128, 64)
    """Widths of a block's encoder; the decoder mirrors them."""
    guide_dropout: float = 0.0
    """Dropout on h and H' before the imagination module."""
    classifier_sizes: tuple[int, ...] = (128, 128)
    """Hidden widths of the classifier."""

    def __post_init__(self) -> None:
        one_of("model", self.model, MODELS)
        one_of("imagination", self.imagination, IMAGINATION_FORMS)
        one_of("pooling", self.pooling, POOLINGS)
        if self.pooling_v is not None:
            one_of("pooling_v", self.pooling_v, POOLINGS)
        one_of("invariant_activation", self.invariant_activation, ACTIVATIONS)
        require_at_least(self, 1, "embedding", "text_channels", "invariant_layers", "blocks")
        require_at_most(self, _MOST_SIZE, "embedding", "text_channels", "text_kernels")
        require_at_most(self, _MOST_SIZE, "block_sizes", "classifier_sizes")
        require_at_most(self, _MOST_LAYERS, "invariant_layers", "blocks")
        for name in ("text_kernels", "block_sizes", "classifier_sizes"):
            sizes = getattr(self, name)
            if not 1 <= len(sizes) <= _MOST_LAYERS or min(sizes) < 1:
                raise RecipeError(
                    f"{name} wants 1 to {_MOST_LAYERS} positive sizes, got {list(sizes)[:9]}"
                )
        require_probability(self, "text_dropout", "guide_dropout")
        if self.model == "linear" and self.statistics is None:
            raise RecipeError("model linear wants network.statistics; the recipe has none")
        if self.contrasts and self.statistics is not None:
            raise RecipeError("model cif-mmin wants sequence encoders, not network.statistics")

    def fitted(self, features: Mapping[Modality, FeatureConfig]) -> Architecture:
        """What of it concerns these inputs: other modalities are left out, and weighted functionals
        where no feature weighs the frames. Raises RecipeError where nothing is left of one."""
        statistics = None
        if self.statistics is not None:
            statistics = {
                m: config if features[m].weight_column is not None else config.unweighted()
                for m, config in self.statistics.items()
                if m in features
            }
        transforms = {m: config for m, config in self.transforms.items() if m in features}
        return msgspec.structs.replace(self, statistics=statistics, transforms=transforms)

    def pooling_of(self, modality: Modality) -> str:
        """How the LSTM outputs of a or v are pooled over time."""
        if modality is Modality.V and self.pooling_v is not None:
            return self.pooling_v
        return self.pooling

    @property
    def imagines(self) -> bool:
        """Whether there is an imagination module, and so a second stage with a teacher."""
        return self.model in ("if-mmin", "cif-mmin", "mmin")

    @property
    def contrasts(self) -> bool:
        """Whether every modality has a second encoder for its invariant features."""
        return self.model == "cif-mmin"

    @property
    def invariant(self) -> bool:
        """Whether there is an invariant encoder S."""
        return self.model in ("if-mmin", "fusion")


def require_modalities(what: str, given: Collection[str]) -> None:
    """RecipeError unless something is told of one modality or more."""
    if not given:
        raise RecipeError(f"{what} of one or more of a, v and t are wanted, got none")


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network: its classes, its inputs, its architecture."""

    labels: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    features: dict[Modality, FeatureConfig]
    """What the inputs are."""
    architecture: Architecture = msgspec.field(default_factory=Architecture)
    """Sizes and variants."""

    def __post_init__(self) -> None:
        try:
            check_labels(self.labels)
        except InputError as error:
            raise RecipeError(str(error)) from error
        require_modalities("features", self.features)
        self._check_statistics()
        for modality in self.modalities:
            shortest = self.minimum_length(modality)
            if self.features[modality].missing_length < shortest:
                raise RecipeError(
                    f"missing_length of {modality} must be at least {shortest}, "
                    f"got {self.features[modality].missing_length}"
                )

    def _check_statistics(self) -> None:
        statistics = self.architecture.statistics
        if statistics is None:
            return
        if set(statistics) != set(self.features):
            wanted, got = (", ".join(sorted(some)) for some in (self.features, statistics))
            raise RecipeError(f"network.statistics of {wanted} are wanted, or none; got {got}")
        for modality, config in statistics.items():
            if not config.weighs:
                continue
            if self.features[modality].weight_column is None:
                raise RecipeError(
                    f"the weighted functionals of {modality} want a weight_column in its features"
                )
            if modality in self.architecture.transforms:
                raise RecipeError(f"weight_column of {modality} wants frames without a transform")

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those that the network takes, in canonical order; the axis M of its tensors."""
        return tuple(m for m in MODALITIES if m in self.features)

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """All patterns that it answers under, in the order of `patterns_of`."""
        return patterns_of(self.features)

    @property
    def incomplete(self) -> tuple[Pattern, ...]:
        """Those of them over which figures are averaged, see `incomplete_patterns`."""
        return incomplete_patterns(self.features)

    def frame_width(self, modality: Modality) -> int:
        """Values per frame after the transform, which is what encoders and statistics see."""
        transform = self.architecture.transforms.get(modality)
        return self.features[modality].dim * (len(transform.powers) if transform else 1)

    def minimum_length(self, modality: Modality) -> int:
        """Frames below which an input is zero-padded: the largest text kernel, else 1."""
        if modality is Modality.T and self.architecture.statistics is None:
            return max(self.architecture.text_kernels)
        return 1

    def with_model(self, model: str) -> ModelConfig:
        """The same configuration for another model."""
        architecture = msgspec.structs.replace(self.architecture, model=model)
        return msgspec.structs.replace(self, architecture=architecture)
