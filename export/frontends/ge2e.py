"""Graphs of the front-end for sound, and the folder that holds them.

The encoder is GE2E (Wan et al. 2018) with the weights of Resemblyzer (Apache-2.0), the detector
of speech is silero-vad (MIT). Both are built here node by node from the weights alone: the
spectrum is inside, as matrices that the engine computes when it loads the graph, a window's
symmetry halves the spectrum's work, and weights are stored in 16 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ifmmin.runtime.files import atomic_directory
from ifmmin.runtime.frontends.ge2e import FRAME, GROUP, STEP, UNITS, VERSION, Rules
from ifmmin.runtime.frontends.sound import RATE
from ifmmin.runtime.frontends.spec import FileEntry, FrontEndSpec, folder_files
from ifmmin.runtime.frontends.speech import CONTEXT, HOP

Array = NDArray[Any]
OPSET = 18
MEL_BANDS = 40


class GraphBuilder:
    """Nodes and constants of a graph; each method that adds one gives the name of its value."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str | Array, outputs: int = 1, **attributes: Any) -> Any:
        """The output's name, or a list of names; an array among the inputs becomes a constant."""
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        made = [f"{operator.lower()}_{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(operator, names, made, made[0], **attributes))
        return made[0] if outputs == 1 else made

    def constant(self, array: Array) -> str:
        """The name of an array as it is."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weight(self, array: Array) -> str:
        """float32 that is stored in 16 bits; the engine turns it back when it loads the graph."""
        return str(self.node("Cast", array.astype(np.float16), to=TensorProto.FLOAT))

    def model(
        self, inputs: dict[str, list[Any]], outputs: dict[str, tuple[str, list[Any]]], about: str
    ) -> bytes:
        """The graph as bytes. inputs: shapes by name. outputs: value and shape by name."""
        for name, (value, _) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value], [name], name))
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self._nodes,
            "graph",
            [info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [info(name, TensorProto.FLOAT, shape) for name, (_, shape) in outputs.items()],
            self._constants,
            doc_string=about,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )
        model.producer_name = "ifmmin"
        onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString(deterministic=True)
        return content


def _cut(build: GraphBuilder, value: str, axis: int, start: int, stop: int, step: int = 1) -> str:
    ends = (np.array([n]) for n in (start, stop, axis, step))
    return str(build.node("Slice", value, *ends))


def power_spectrum(build: GraphBuilder, frames: str, size: int) -> str:
    """|DFT|^2 of Hann-windowed frames (., ., size) -> (., ., size / 2 + 1).

    The window and the cosines are even about size / 2, the sines odd, and the first sample has
    weight 0: sums and differences of mirrored samples are multiplied in place of the samples.
    """
    half = size // 2
    rising, falling = _cut(build, frames, 2, 1, half), _cut(build, frames, 2, size - 1, half, -1)
    middle = _cut(build, frames, 2, half, half + 1)
    even = build.node("Concat", build.node("Add", rising, falling), middle, axis=2)
    odd = build.node("Sub", rising, falling)
    turn = 2 * np.pi * np.arange(size) / size
    window = (0.5 - 0.5 * np.cos(turn))[:, None]

    def matrix(wave: Array, count: int) -> str:
        """window[n] * wave[n * k mod size] for n in 1..count, k in 0..half."""
        ns = np.arange(1, count + 1)[:, None]
        product = build.node("Mul", ns, np.arange(half + 1)[None])
        index = build.node("Mod", product, np.array(size))
        values = build.node("Gather", wave.astype(np.float32), index)
        return str(build.node("Mul", values, window[1 : count + 1].astype(np.float32)))

    real = build.node("MatMul", even, matrix(np.cos(turn), half))
    imaginary = build.node("MatMul", odd, matrix(np.sin(turn), half - 1))
    return str(
        build.node("Add", build.node("Mul", real, real), build.node("Mul", imaginary, imaginary))
    )


def mel_filters() -> Array:
    """(201, 40): Slaney's mel bands from 0 to 8 kHz, each of area one, for a spectrum of 400."""
    top = 15 + np.log(RATE / 2 / 1000) / (np.log(6.4) / 27)
    mels = np.linspace(0, top, MEL_BANDS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    bins = np.arange(FRAME // 2 + 1)[:, None] * RATE / FRAME
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - lower) / (centre - lower), (upper - bins) / (upper - centre)
    bands: Array = np.maximum(0, np.minimum(rising, falling)) * 2 / (upper - lower)
    return bands


def _iofc(array: Array) -> Array:
    """torch's gates i, f, g, o in the order of ONNX: i, o, f, c."""
    i, f, g, o = np.split(array, 4)
    return np.concatenate([i, o, f, g])


def encoder_graph(weights: Mapping[str, Array], layers: Sequence[int]) -> bytes:
    """Frames of samples -> means of ten frames' LSTM outputs, those of `layers` side by side.

    weights: a torch LSTM's by its names (`weight_ih_l0` ...). layers: the first is 1; L the last
    of them. frames (B, T, 400) float32 at 16 kHz, one each 160 samples, level set, T a multiple of
    10; h and c (L, B, 256), zeros at first -> features (B, T / 10, 256 * layers), h_next and c_next
    (L, B, 256).
    """
    build = GraphBuilder()
    power = power_spectrum(build, "frames", FRAME)
    value = build.node("MatMul", power, mel_filters().astype(np.float32))
    value = build.node("Transpose", value, perm=[1, 0, 2])
    outputs, ends = [], []
    for layer in range(max(layers)):
        h, c = (_cut(build, name, 0, layer, layer + 1) for name in "hc")
        of_input = build.weight(_iofc(weights[f"weight_ih_l{layer}"])[None])
        recurrent = build.weight(_iofc(weights[f"weight_hh_l{layer}"])[None])
        both = [_iofc(weights[f"bias_{kind}_l{layer}"]) for kind in ("ih", "hh")]
        bias = np.concatenate(both)[None].astype(np.float32)
        value, *end = build.node(
            "LSTM", value, of_input, recurrent, bias, "", h, c, outputs=3, hidden_size=UNITS
        )
        value = build.node("Squeeze", value, np.array([1]))
        outputs.append(value)
        ends.append(end)
    chosen = build.node("Concat", *(outputs[layer - 1] for layer in layers), axis=2)
    width = UNITS * len(layers)
    batch = build.node("Shape", "frames", start=0, end=1)
    shape = build.node("Concat", np.array([-1, GROUP]), batch, np.array([width]), axis=0)
    grouped = build.node("Reshape", chosen, shape)
    features = build.node("ReduceMean", grouped, np.array([1]), keepdims=0)
    features = build.node("Transpose", features, perm=[1, 0, 2])
    h_next, c_next = (build.node("Concat", *states, axis=0) for states in zip(*ends, strict=True))
    state = [max(layers), "B", UNITS]
    return build.model(
        {"frames": ["B", "T", FRAME], "h": state, "c": state},
        {
            "features": (features, ["B", "G", width]),
            "h_next": (h_next, state),
            "c_next": (c_next, state),
        },
        f"GE2E: frames of sound at 16 kHz to {width} numbers each 100 ms",
    )


def detector_graph(weights: Mapping[str, Array]) -> bytes:
    """Hops of samples -> probabilities of speech.

    weights: silero-vad's for 16 kHz, as `silero_weights` names them. hops (N, 576) float32: 64
    samples before the hop and its 512; h and c (1, 1, 128), zeros at first -> probabilities (N,),
    h_next and c_next (1, 1, 128).
    """
    build = GraphBuilder()
    mirrored = _cut(build, "hops", 1, HOP + CONTEXT - 2, HOP - 2, -1)
    padded = build.node("Concat", "hops", mirrored, axis=1)
    pieces = [_cut(build, padded, 1, at, at + 256) for at in range(0, HOP, 128)]
    frames = build.node("Reshape", build.node("Concat", *pieces, axis=1), np.array([0, 4, 256]))
    value = build.node("Sqrt", power_spectrum(build, frames, 256))

    def layer(taps: str, name: str, used: slice) -> str:
        """A convolution as a product: taps (..., kernel * channels), those of `used`."""
        kernel = weights[f"{name}.weight"][:, :, used].transpose(2, 1, 0)
        product = build.node("MatMul", taps, build.weight(kernel.reshape(-1, kernel.shape[2])))
        return str(build.node("Relu", build.node("Add", product, weights[f"{name}.bias"])))

    # Four frames a hop; a zero frame stands before and after them.
    value = build.node("Pad", value, np.array([0, 1, 0, 0, 1, 0]))
    taps = [_cut(build, value, 1, at, at + 4) for at in range(3)]
    value = layer(build.node("Concat", *taps, axis=2), "encoder.0", slice(3))
    value = build.node("Pad", value, np.array([0, 1, 0, 0, 0, 0]))
    # Each second of the four frames, then the first of the two, then the one.
    taps = [
        build.node("Reshape", _cut(build, value, 1, at, at + 3), np.array([0, 1, -1]))
        for at in (0, 2)
    ]
    value = layer(build.node("Concat", *taps, axis=1), "encoder.1", slice(3))
    value = layer(build.node("Reshape", value, np.array([0, 1, -1])), "encoder.2", slice(1, 3))
    value = layer(value, "encoder.3", slice(1, 2))
    value, h_next, c_next = build.node(
        "LSTM", value, build.weight(weights["W"]), build.weight(weights["R"]), weights["B"], "",
        "h", "c", outputs=3, hidden_size=128,
    )  # fmt: skip
    value = build.node("Relu", build.node("Reshape", value, np.array([-1, 128])))
    value = build.node("MatMul", value, weights["output.weight"][0])
    value = build.node("Sigmoid", build.node("Add", value, weights["output.bias"]))
    value = build.node("Reshape", value, np.array([-1]))
    state = [1, 1, 128]
    return build.model(
        {"hops": ["N", HOP + CONTEXT], "h": state, "c": state},
        {"probabilities": (value, ["N"]), "h_next": (h_next, state), "c_next": (c_next, state)},
        "silero-vad: probability of speech in each 32 ms of sound at 16 kHz",
    )


def silero_weights(path: Path) -> dict[str, Array]:
    """silero-vad's weights by `detector_graph`'s names, of `silero_vad_16k_sequence.onnx`."""
    graph = onnx.load(path).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    [recurrent] = [node for node in graph.node if node.op_type == "LSTM"]
    for name, tensor in zip("WRB", recurrent.input[1:4], strict=True):
        weights[name] = weights.pop(tensor)
    return weights


def resemblyzer_weights(path: Path) -> dict[str, Array]:
    """The weights of the encoder's LSTM by torch's names, from Resemblyzer's `pretrained.pt`."""
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    return {
        name.removeprefix("lstm."): value.numpy()
        for name, value in state.items()
        if name.startswith("lstm.")
    }


def make_ge2e(
    encoder: Mapping[str, Array], detector: Mapping[str, Array], folder: Path, rules: Rules
) -> FrontEndSpec:
    """Make the folder of the front-end `ge2e`.

    encoder: what `resemblyzer_weights` gives of the wheel Resemblyzer 0.1.4. detector: what
    `silero_weights` gives of the wheel silero-vad 6.2.3.
    """
    contents = {"graph": encoder_graph(encoder, rules.layers), "detector": detector_graph(detector)}
    names = {"graph": "ge2e.onnx", "detector": "silero.onnx"}
    layers = " and ".join(map(str, rules.layers))
    spec = FrontEndSpec(
        kind="ge2e",
        version=VERSION,
        dim=UNITS * len(rules.layers),
        frame_rate=RATE / STEP / GROUP,
        features=f"states of GE2E's encoder of voices, LSTM layers {layers}, means of 100 ms of "
        "speech; they tell voices apart",
        settings=msgspec.json.decode(msgspec.json.encode(rules)),
        files={role: FileEntry.of(names[role], content) for role, content in contents.items()},
        licence="Apache-2.0 AND MIT",
    )
    with atomic_directory(folder) as part:
        for name, content in folder_files(spec, contents).items():
            (part / name).write_bytes(content)
    return spec
