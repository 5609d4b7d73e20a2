"""A recipe: the corpus, the network and the two stages, in one YAML file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ifmmin.runtime.errors import InputError, RecipeError, one_line
from ifmmin.runtime.files import JSON_ERRORS, read_regular
from ifmmin.runtime.modality import Modality

from .config import (
    MODELS,
    Architecture,
    Stage1,
    Stage2,
    one_of,
    require_at_least,
    require_modalities,
)
from .data import Layout


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number; YAML 1.1 reads it as text without a point.

    Without aliases, by which a few lines unfold to more than there is memory, and without keys that
    stand twice, of which one would be lost in silence.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="got an alias, wanted it written out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse a key that stands twice."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(None, None, f"got {key} twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _parse(text: str, what: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    # ValueError and others: dates and numbers that are none, keys that are lists.
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, OverflowError) as error:
        raise RecipeError(f"{what} is not YAML: {one_line(error)}") from error


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)

_MOST_BYTES = 1 << 20
SELECT_BY = ("ua", "wa", "f1")
_LINEAR_STATISTICS = {m: {"functionals": ["mean", "std"]} for m in ("a", "v", "t")}


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a training run needs besides the data's place, the fold and the seed."""

    name: str
    """What a table calls it."""
    description: str
    """What it is for, and where it departs from what was published."""
    corpus: Layout
    """Where utterances come from."""
    network: Architecture
    """What is trained."""
    modalities: tuple[Modality, ...] | None = None
    """What is trained, e.g. [a, t]; the rest of the corpus is left out. None: all that it has."""
    stage1: Stage1
    """How the teacher, or a network of one stage, is trained."""
    stage2: Stage2 | None = None
    """Absent for the models `fusion` and `linear`."""
    select: str = "ua"
    """Validation figure that picks the epoch: ua, wa or f1."""
    reference_batches: bool = False
    """Train and measure as the reference does: zero padding and zeroed modalities run through the
    encoders, so that an answer depends on its batch. The checkpoint's graphs do not."""
    length_buckets: int = 8
    """Batches are drawn from shuffled groups of this many batches sorted by length; 1: no sorting,
    as the reference."""

    def __post_init__(self) -> None:
        if self.modalities is not None:
            require_modalities("modalities", self.modalities)
            if len(set(self.modalities)) < len(self.modalities):
                raise RecipeError(f"modalities names one twice: {', '.join(self.modalities)}")
        one_of("select", self.select, SELECT_BY)
        require_at_least(self, 1, "length_buckets")
        if (self.network.imagines or self.network.model == "augmented") and self.stage2 is None:
            raise RecipeError(f"model {self.network.model} wants a stage2; the recipe has none")
        if self.reference_batches and self.network.statistics is not None:
            raise RecipeError("reference_batches wants sequence encoders, not network.statistics")


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    folder = files("ifmmin.train") / "recipes"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(
    name_or_file: str,
    overrides: Sequence[str] = (),
    *,
    model: str | None = None,
    corpus: str | None = None,
) -> Recipe:
    """Read a shipped recipe, a YAML file, or the one that a folder holds.

    model: train this one, with what the recipe's `models` section says of it; corpus: take the
    corpus section of this recipe instead; overrides: `stage1.epochs=3` and the like, applied last.
    Raises RecipeError saying which field is wrong.
    """
    content = _read(name_or_file)
    if corpus is not None:
        content["corpus"] = _read(corpus, "corpus")["corpus"]
    by_model = content.pop("models", None) or {}
    network = content.setdefault("network", {})
    for name, section in (("network", network), ("models", by_model)):
        if not isinstance(section, dict):
            raise RecipeError(
                f"recipe {name_or_file}: {name}: got {section!r:.99}, wanted a section"
            )
    for name in by_model:
        one_of(f"recipe {name_or_file}: models", name, MODELS)
    if model is not None:
        one_of("model", model, MODELS)
        network["model"] = model
    chosen = network.get("model", "if-mmin")
    _merge(content, by_model.get(chosen) or {})
    if chosen == "linear":
        # The specialist is the same whatever the recipe: nothing of its network applies.
        content["network"] = {"model": "linear", "statistics": _LINEAR_STATISTICS}
        content.pop("stage2", None)
    for override in overrides:
        _override(content, override)
    if model is not None and isinstance(content["network"], dict):
        content["network"]["model"] = model  # --set may have replaced the whole section
    try:
        return msgspec.convert(content, Recipe)
    # RecursionError and OverflowError: of sections and numbers without end.
    except (*JSON_ERRORS, RecipeError, InputError, OverflowError) as error:
        raise RecipeError(f"recipe {name_or_file}: {one_line(error)}") from error


RECIPE_NAME, FEATURES_NAME, TARGETS_NAME = "recipe.yaml", "features", "targets"
"""What a folder of a corpus holds."""


def corpus_roots(
    sources: Sequence[str | None], features: Path | None, targets: Path | None
) -> tuple[Path | None, Path | None]:
    """Roots of features and targets: those given, else those in the first source that is a folder.

    sources: what stands for `--corpus` and `--recipe`.
    """
    for source in sources:
        if source is not None and os.path.isdir(source):  # noqa: PTH112 - a name may be too long
            found = Path(source)
            return features or found / FEATURES_NAME, targets or found / TARGETS_NAME
    return features, targets


def _read(name_or_file: str, section: str = "stage1") -> dict[str, Any]:
    """The content of a recipe; RecipeError where it lacks the section that is wanted of it."""
    if name_or_file not in recipe_names() and os.path.isdir(name_or_file):  # noqa: PTH112
        name_or_file = str(Path(name_or_file) / RECIPE_NAME)
    if name_or_file in recipe_names():
        text = (files("ifmmin.train") / "recipes" / f"{name_or_file}.yaml").read_text("utf-8")
    elif os.path.lexists(name_or_file):
        try:
            text = read_regular(Path(name_or_file), RecipeError, _MOST_BYTES).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {name_or_file} cannot be read ({error})") from error
    else:
        raise RecipeError(
            f"no recipe {name_or_file!r}; give a YAML file, a folder with a {RECIPE_NAME}, or one "
            f"of {', '.join(recipe_names())}"
        )
    content = _parse(text, name_or_file)
    if not isinstance(content, dict) or not isinstance(content.get(section), dict):
        hint = "" if section == "corpus" else "; one of a corpus alone is for --corpus"
        raise RecipeError(f"{name_or_file} is not a recipe: it has no section {section}{hint}")
    return content


def _merge(content: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(content.get(key), dict):
            _merge(content[key], value)
        else:
            content[key] = value


def _override(content: Any, override: str) -> None:
    key, equals, value = override.partition("=")
    *path, last = key.split(".")
    if not equals or not last:
        raise RecipeError(f"got --set {override!r}, wanted key=value, e.g. stage2.epochs=10")
    for name in path:
        if not isinstance(content, dict) or not isinstance(content.get(name), dict):
            raise RecipeError(f"--set {override}: the recipe has no section {name!r}")
        content = content[name]
    content[last] = _parse(value, f"--set {override}: the value")


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every field written out."""
    return yaml.safe_dump(msgspec.to_builtins(recipe), sort_keys=False, allow_unicode=True)
