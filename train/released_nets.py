"""From the keys of the reference's sub-networks to ours; shapes decide every size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ifmmin.runtime.errors import CheckpointError
from ifmmin.runtime.modality import Modality
from ifmmin.train.released_files import ReleasedFiles
from ifmmin.train.released_options import LETTERS, embd_method, invariant_of, pooling_of
from ifmmin.train.released_weights import State, Weights


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
