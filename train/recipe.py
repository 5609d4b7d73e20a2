"""A recipe: the corpus, the network and the two stages, in one YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ifmmin.runtime.errors import RecipeError
from ifmmin.train.config import Architecture
from ifmmin.train.corpora import Layout

SELECT_BY = ("ua", "wa", "f1")
PATTERN_SETS = ("incomplete", "all")


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one stage is optimised, with Adam."""

    epochs: int
    """Epochs at the constant learning rate."""
    decay_epochs: int
    """Epochs after them, in which the learning rate falls linearly towards zero."""
    steps_per_epoch: int | None = None
    """Updates between two validations; none: one pass over the training part."""
    batch_size: int
    """Utterances per update."""
    learning_rate: float
    beta1: float = 0.9
    """Adam's first moment decay."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW) on every parameter."""
    dropout: float
    """Probability in the classifier."""
    clip: float
    """Largest gradient norm of each sub-network."""

    def __post_init__(self) -> None:
        if self.epochs + self.decay_epochs < 1 or min(self.epochs, self.decay_epochs) < 0:
            raise RecipeError("epochs and decay_epochs must be at least 0 and together at least 1")
        if self.batch_size < 2:
            raise RecipeError(f"batch_size must be at least 2, got {self.batch_size}")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise RecipeError(f"steps_per_epoch must be at least 1, got {self.steps_per_epoch}")
        for name, least in (("learning_rate", 0.0), ("clip", 0.0)):
            if getattr(self, name) <= least:
                raise RecipeError(f"{name} must be above {least}, got {getattr(self, name)}")
        for name in ("dropout", "beta1"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"{name} must be in [0, 1), got {getattr(self, name)}")

    @property
    def total_epochs(self) -> int:
        """All epochs of the stage."""
        return self.epochs + self.decay_epochs

    def rate_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 1, as the reference decays it."""
        past = max(0, epoch - self.epochs)
        return self.learning_rate * (1.0 - past / (self.decay_epochs + 1))


class Stage1(Schedule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Full modality: cross-entropy + cmd * CMD of the invariant features."""

    cmd: float = 1.0
    """Weight of the CMD term."""
    cmd_bounded: bool = False
    """CMD of the standardised and squashed features instead of the raw ones, which on small corpora
    shut the text encoder (docs/method.md)."""


class Stage2(Schedule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Missing modality: cross-entropy + imagination * MSE + invariance * MSE."""

    imagination: float = 1.0
    """Weight of MSE(imagined, teacher embeddings of what is missing)."""
    invariance: float = 100.0
    """Weight of MSE(H' of the student, H' of the teacher on the whole utterance)."""
    patterns: str = "incomplete"
    """Patterns drawn uniformly in training: the six `incomplete` ones or `all` seven."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patterns not in PATTERN_SETS:
            raise RecipeError(
                f"patterns must be one of {', '.join(PATTERN_SETS)}; got {self.patterns!r}"
            )


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a training run needs besides the data's place, the fold and the seed."""

    name: str
    description: str
    corpus: Layout
    network: Architecture
    stage1: Stage1
    stage2: Stage2 | None = None
    """Absent for the model `fusion`."""
    select: str = "ua"
    """Validation figure that picks the epoch: ua, wa or f1."""

    def __post_init__(self) -> None:
        if self.select not in SELECT_BY:
            raise RecipeError(f"select must be one of {', '.join(SELECT_BY)}; got {self.select!r}")
        if self.network.model != "fusion" and self.stage2 is None:
            raise RecipeError(f"model {self.network.model} wants a stage2; the recipe has none")


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    folder = files("ifmmin.train") / "recipes"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name_or_file: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe or a YAML file; `overrides` are `stage1.epochs=3` and the like.

    Raises RecipeError saying which field is wrong.
    """
    if name_or_file in recipe_names():
        text = (files("ifmmin.train") / "recipes" / f"{name_or_file}.yaml").read_text("utf-8")
    elif Path(name_or_file).is_file():
        text = Path(name_or_file).read_text("utf-8")
    else:
        raise RecipeError(
            f"no recipe {name_or_file!r}; give a YAML file or one of {', '.join(recipe_names())}"
        )
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{name_or_file} is not YAML: {error}") from error
    for override in overrides:
        _override(content, override)
    try:
        return msgspec.convert(content, Recipe)
    except msgspec.ValidationError as error:
        raise RecipeError(f"recipe {name_or_file}: {error}") from error


def _override(content: Any, override: str) -> None:
    key, equals, value = override.partition("=")
    *path, last = key.split(".")
    if not equals or not last:
        raise RecipeError(f"got --set {override!r}, wanted key=value, e.g. stage2.epochs=10")
    for name in path:
        if not isinstance(content, dict) or not isinstance(content.get(name), dict):
            raise RecipeError(f"--set {override}: the recipe has no section {name!r}")
        content = content[name]
    content[last] = yaml.safe_load(value)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every field written out."""
    return yaml.safe_dump(msgspec.to_builtins(recipe), sort_keys=False, allow_unicode=True)
