"""Mapping from the reference's options and sub-networks to ours; shapes decide every size."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ifmmin.runtime.console import printable
from ifmmin.runtime.errors import CheckpointError
from ifmmin.runtime.modality import Modality

from ..config import FeatureConfig
from ..data import ReleasedLayout
from ..recipe import load_recipe
from .weights import ReleasedFiles, State, Weights

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
    "V0500": Invariant(1, dropout=True), "V0501": Invariant(1), "V0502": Invariant(1),
    "V0503": Invariant(1), "V0600": Invariant(2, dropout=True),
}  # fmt: skip


def invariant_of(options: Options) -> Invariant:
    """The variant of S that `run_idx` chooses, the first that it contains, as the reference."""
    run_idx = str(options.get("run_idx"))
    return next((v for code, v in _VARIANTS.items() if code in run_idx), Invariant(2))


def embd_method(options: Options, modality: Modality) -> str:
    """How the reference pools a or v: maxpool, last or attention."""
    name = f"embd_method_{modality}"
    method = options.get(name, "maxpool")
    if not isinstance(method, str) or method not in _POOLING:
        raise CheckpointError(
            f"train_opt.conf: {name} must be one of {', '.join(_POOLING)}; got {method!r:.99}"
        )
    return method


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
    text, rate = f"{printable(str(said)[:99])}, as the reference computes it", None
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
        and (isinstance(value, str) or abs(value) <= sys.float_info.max)
    }


@dataclass(frozen=True)
class Mapped:
    """Weights under our names and the sizes that they have."""

    state: State
    architecture: dict[str, Any]
    """Fields of Architecture, all but the form of the imagination."""
    dims: dict[Modality, int]
    classes: int
    idle_decoders: bool
    """Whether no decoder but the last shows a trace of training: initial biases are zero, and the
    parallel form never reads those decoders."""
    notes: tuple[str, ...]

    def parallel_state(self) -> State:
        """The state without the decoders that the parallel form does not read."""
        last = self.architecture["blocks"] - 1
        kept = {}
        for name, tensor in self.state.items():
            if name.startswith("imagination.decoders."):
                if not name.startswith(f"imagination.decoders.{last}."):
                    continue
                name = name.replace(f"decoders.{last}.", "decoders.0.", 1)
            kept[name] = tensor
        return kept


def map_nets(files: ReleasedFiles) -> Mapped:
    """Map every sub-network; CheckpointError for a key that is missing, of another shape, or not
    known."""
    weights, options = files.weights, files.options
    embedding = weights["A"].size("rnn.weight_hh_l0", 1)
    architecture: dict[str, Any] = {"model": files.model, "embedding": embedding}
    state: State = {}
    dims, notes = {}, []
    for modality in (Modality.A, Modality.V):
        net = weights[LETTERS[modality]]
        dims[modality] = net.size("rnn.weight_ih_l0", 1)
        state |= _lstm(net, f"encoders.{modality}.rnn", dims[modality], embedding)
        if embd_method(options, modality) == "attention":
            _drop_attention(net, embedding)
            notes.append(
                f"{modality}: the softmax of the reference's attention runs over an axis of length "
                "1, so all weights are 1: imported as the sum over time, its own weights dropped"
            )
    pooling, pooling_v = pooling_of(options, Modality.A), pooling_of(options, Modality.V)
    architecture |= {"pooling": pooling, "pooling_v": None if pooling_v == pooling else pooling_v}
    state |= _text(weights["L"], embedding, architecture)
    dims[Modality.T] = state["encoders.t.weights.0"].shape[2]
    if files.model != "mmin":
        net = weights["Shared" if files.model == "fusion" else "invariant"]
        state |= _invariant(net, files, embedding, architecture)
    width, idle = 6 * embedding, False
    if files.model != "fusion":
        imagination = _imagination(weights["AE"], embedding, architecture)
        width = architecture["blocks"] * architecture["block_sizes"][-1]
        idle = _idle(imagination, architecture["blocks"])
        state |= imagination
    state |= _classifier(weights["C"], width, architecture)
    classes = state[f"classifier.linears.{len(architecture['classifier_sizes'])}.bias"].shape[0]
    for net in weights.values():
        net.finish()
    return Mapped(state, architecture, dims, classes, idle, tuple(notes))


def _lstm(net: Weights, into: str, dim: int, embedding: int) -> State:
    shapes = {
        "weight_ih_l0": (4 * embedding, dim),
        "weight_hh_l0": (4 * embedding, embedding),
        "bias_ih_l0": (4 * embedding,),
        "bias_hh_l0": (4 * embedding,),
    }
    return {f"{into}.{name}": net.take(f"rnn.{name}", *shape) for name, shape in shapes.items()}


def _drop_attention(net: Weights, embedding: int) -> None:
    net.take("attention_vector_weight", embedding, 1)
    net.take("attention_layer.0.weight", embedding, embedding)
    net.take("attention_layer.0.bias", embedding)


def _text(net: Weights, embedding: int, architecture: dict[str, Any]) -> State:
    channels, dim = (net.size("conv1.weight", axis, axes=4) for axis in (0, 3))
    kernels = [net.size(f"conv{number}.weight", 2, axes=4) for number in (1, 2, 3)]
    state = {}
    for index, kernel in enumerate(kernels):
        weight = net.take(f"conv{index + 1}.weight", channels, 1, kernel, dim)
        state[f"encoders.t.weights.{index}"] = weight.squeeze(1)
        state[f"encoders.t.biases.{index}"] = net.take(f"conv{index + 1}.bias", channels)
    state["encoders.t.output.weight"] = net.take("embd.0.weight", embedding, 3 * channels)
    state["encoders.t.output.bias"] = net.take("embd.0.bias", embedding)
    architecture |= {"text_channels": channels, "text_kernels": tuple(kernels)}
    return state


def _invariant(
    net: Weights, files: ReleasedFiles, embedding: int, architecture: dict[str, Any]
) -> State:
    wanted = invariant_of(files.options)
    layers = net.numbered("netshared.shared_{}", start=1)
    if len(layers) != wanted.layers:
        raise CheckpointError(
            f"{net.path}: keys up to {layers[-1]}.weight, but run_idx "
            f"{files.options.get('run_idx')!r} of train_opt.conf means {wanted.layers} Linear "
            "layers in this net; which of them is wrong?"
        )
    architecture |= {f"invariant_{name}": value for name, value in wanted._asdict().items()}
    return net.linears(layers, [embedding] * (len(layers) + 1), "invariant")


def _imagination(net: Weights, embedding: int, architecture: dict[str, Any]) -> State:
    width = 3 * embedding
    layers = net.numbered("encoder_0.{}", step=2)
    sizes = net.outputs(layers)
    blocks = 0
    state = net.linears(["transition.0", "transition.2"], [width] * 3, "imagination.transition")
    while blocks == 0 or f"encoder_{blocks}.0.weight" in net:
        for name, chain in (("encoder", [width, *sizes]), ("decoder", [*sizes[::-1], width])):
            ours = [f"{name}_{blocks}.{2 * index}" for index in range(len(sizes))]
            state |= net.linears(ours, chain, f"imagination.{name}s.{blocks}")
        blocks += 1
    architecture |= {"blocks": blocks, "block_sizes": tuple(sizes)}
    return state


def _idle(state: State, blocks: int) -> bool:
    biases = [
        tensor
        for name, tensor in state.items()
        if name.startswith("imagination.decoders.")
        and not name.startswith(f"imagination.decoders.{blocks - 1}.")
        and name.endswith(".bias")
    ]
    return bool(biases) and all(not tensor.any() for tensor in biases)


def _classifier(net: Weights, width: int, architecture: dict[str, Any]) -> State:
    # Linear, ReLU, Dropout; without dropout the reference leaves the third out.
    step = 2 if "module.2.weight" in net else 3
    layers = net.numbered("module.{}", step=step)
    hidden = net.outputs(layers)
    sizes = [width, *hidden, net.size("fc_out.weight", 0)]
    architecture["classifier_sizes"] = tuple(hidden)
    return net.linears([*layers, "fc_out"], sizes, "classifier")
