"""What `train_opt.conf` of the reference says about the network and its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ifmmin.runtime.errors import CheckpointError
from ifmmin.runtime.modality import Modality
from ifmmin.train.config import FeatureConfig
from ifmmin.train.corpora import ReleasedLayout
from ifmmin.train.recipe import load_recipe

Options = Mapping[str, Any]

LETTERS = {Modality.A: "A", Modality.V: "V", Modality.T: "L"}
"""The reference's letters for the modalities."""
KEPT = (
    "name", "model", "run_idx", "corpus_name", "A_type", "V_type", "L_type", "norm_method",
    "embd_method_a", "embd_method_v", "niter", "niter_decay", "batch_size", "lr", "beta1",
    "dropout_rate", "ce_weight", "mse_weight", "invariant_weight", "cycle_weight",
)  # fmt: skip
"""Options that a checkpoint's record keeps."""
_POOLING = {"maxpool": "maximum", "last": "last", "attention": "sum"}
_TYPES = {
    Modality.A: ("comparE", "comparE_raw"), Modality.V: ("denseface",), Modality.T: ("bert_large",)
}  # fmt: skip
BY_FOLD = "the training statistics of fold"
BY_CORPUS = "mean and deviation over all utterances of the corpus"
BY_UTTERANCE = "the utterance's own mean and deviation (n - 1)"
MISSING_FRAMES = {Modality.A: 100, Modality.V: 50, Modality.T: 5}
"""Zero frames that stand for a missing modality; the released features have 50 of v for everyone,
and the encoding of zero tokens is the same from the largest kernel on."""


class Invariant(NamedTuple):
    """A variant of the invariant encoder S."""

    layers: int
    activation: str = "leaky_relu"
    end_active: bool = True
    dropout: bool = False


_VARIANTS = {
    "V0200": Invariant(4, "sigmoid", end_active=False, dropout=True),
    "V0500": Invariant(1, dropout=True),
    "V0501": Invariant(1),
    "V0502": Invariant(1),
    "V0503": Invariant(1),
    "V0600": Invariant(2, dropout=True),
}


def invariant_of(options: Options) -> Invariant:
    """The variant of S that `run_idx` chooses, the first that it contains, as the reference."""
    run_idx = str(options.get("run_idx"))
    return next((v for code, v in _VARIANTS.items() if code in run_idx), Invariant(2))


def embd_method(options: Options, modality: Modality) -> str:
    """How the reference pools a or v: maxpool, last or attention."""
    name = f"embd_method_{modality}"
    method = options.get(name, "maxpool")
    if method not in _POOLING:
        raise CheckpointError(
            f"train_opt.conf: {name} must be one of {', '.join(_POOLING)}; got {method!r}"
        )
    return str(method)


def pooling_of(options: Options, modality: Modality) -> str:
    """The same in our words."""
    return _POOLING[embd_method(options, modality)]


def standardised(options: Options) -> str | None:
    """With whose mean and deviation the reference standardises a, as the end of a sentence; None
    for features that it takes as they are."""
    said = options.get("A_type", "comparE")
    if said not in _TYPES[Modality.A]:
        return None
    if options.get("norm_method") == "utt":
        return BY_UTTERANCE
    return BY_FOLD if said == "comparE" else BY_CORPUS


def feature_config(
    options: Options, modality: Modality, *, dim: int, fold: int, missing_length: int, known: bool
) -> FeatureConfig:
    """What the inputs of a modality are; known: the checkpoint has the statistics of a."""
    said = options.get(f"{LETTERS[modality]}_type", _TYPES[modality][0])
    text, rate = f"{said}, as the reference computes it", None
    if said in _TYPES[modality]:
        file = iemocap_layout().files[modality]
        text, rate = file.features, file.frame_rate
    how = standardised(options) if modality is Modality.A and not known else None
    if how is not None:
        text += f"; already z-scored with {how}" + (f" {fold}" if how == BY_FOLD else "")
    return FeatureConfig(
        dim=dim, features=text, frame_rate=rate, missing_length=missing_length,
        normalised=how is not None,
    )  # fmt: skip


def iemocap_layout() -> ReleasedLayout:
    """The corpus section of the recipe `iemocap`."""
    layout = load_recipe("iemocap").corpus
    assert isinstance(layout, ReleasedLayout)
    return layout


def kept(options: Options) -> dict[str, str | int | float | bool]:
    """The options worth keeping that are plain finite values."""
    return {
        name: value
        for name in KEPT
        if isinstance(value := options.get(name), str | int | float)
        and (isinstance(value, str) or math.isfinite(value))
    }
