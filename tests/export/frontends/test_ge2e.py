"""GE2E: its graphs against plain NumPy, and the front-end against a plain account of its rules."""

from __future__ import annotations

import tracemalloc
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ifmmin.export.frontends.ge2e import (
    GraphBuilder,
    detector_graph,
    encoder_graph,
    make_ge2e,
    resemblyzer_weights,
    silero_weights,
)
from ifmmin.runtime.errors import BundleError, InputError
from ifmmin.runtime.frontends.base import open_frontend, session
from ifmmin.runtime.frontends.ge2e import Ge2e, Rules
from ifmmin.runtime.frontends.sound import RATE, Sound
from ifmmin.runtime.frontends.spec import FileEntry, FrontEndSpec, read_folder
from ifmmin.runtime.frontends.speech import Detector

Array = NDArray[Any]
RULES = Rules()


def encoder_weights(seed: int = 0) -> dict[str, Array]:
    """Of three layers, as large as those of a trained encoder."""
    random, made = np.random.default_rng(seed), {}
    for layer in range(3):
        for kind, width in (("ih", 256 if layer else 40), ("hh", 256)):
            scale = 4 if width == 40 else 1
            weight = random.normal(0, scale / np.sqrt(width), (1024, width))
            # As the graph stores them.
            made[f"weight_{kind}_l{layer}"] = weight.astype(np.float16).astype(np.float32)
            made[f"bias_{kind}_l{layer}"] = random.normal(0, 0.1, 1024).astype(np.float32)
    return made


def detector_weights() -> dict[str, Array]:
    random = np.random.default_rng(1)
    shapes = [(128, 129, 3), (64, 128, 3), (64, 64, 3), (128, 64, 3)]
    made = {}
    for index, shape in enumerate(shapes):
        made[f"encoder.{index}.weight"] = random.normal(0, (shape[1] * 3) ** -0.5, shape)
        made[f"encoder.{index}.bias"] = random.normal(0, 0.1, shape[0])
    made["output.weight"] = random.normal(0, 1, (1, 128, 1))
    made["output.bias"] = random.normal(0, 0.1, 1)
    made["W"], made["R"] = random.normal(0, 0.09, (2, 1, 512, 128))
    made["B"] = random.normal(0, 0.1, (1, 1024))
    stored = {n: a.astype(np.float16) if a.ndim > 1 and n != "B" else a for n, a in made.items()}
    return {name: array.astype(np.float32) for name, array in stored.items()}


def sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


def lstm(inputs: Array, of_input: Array, recurrent: Array, bias: Array, order: str) -> Array:
    """(T, I) -> (T, H) from zeros, in float64, gate by gate in the order of their names."""
    size = recurrent.shape[1]
    h, c, outputs = np.zeros(size), np.zeros(size), []
    for frame in inputs.astype(np.float64):
        parts = np.split(of_input @ frame + recurrent @ h + bias, 4)
        gate = dict(zip(order, parts, strict=True))
        c = sigmoid(gate["f"]) * c + sigmoid(gate["i"]) * np.tanh(gate["c"])
        h = sigmoid(gate["o"]) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


def mel_spectrum(frames: Array) -> Array:
    """(T, 400) -> (T, 40) by FFT and bands drawn one by one."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(frames.astype(np.float64) * window)) ** 2
    # 15 mels to 1 kHz, from there 27 for each factor 6.4.
    top = 15 + 27 * np.log(8) / np.log(6.4)
    edges = [
        mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)
        for mel in np.linspace(0, top, 42)
    ]
    bands = np.zeros((201, 40))
    for band in range(40):
        low, centre, high = edges[band : band + 3]
        for place, frequency in enumerate(np.arange(201) * 40.0):
            if low < frequency <= centre:
                bands[place, band] = (frequency - low) / (centre - low)
            elif centre < frequency < high:
                bands[place, band] = (high - frequency) / (high - centre)
        bands[:, band] *= 2 / (high - low)
    made: Array = power @ bands
    return made


def encode(frames: Array, weights: dict[str, Array], layers: tuple[int, ...]) -> Array:
    """Frames (T, 400) of one chunk -> (T // 10, 256 * layers)."""
    value, outputs = mel_spectrum(frames), []
    for layer in range(max(layers)):
        bias = weights[f"bias_ih_l{layer}"] + weights[f"bias_hh_l{layer}"]
        value = lstm(
            value, weights[f"weight_ih_l{layer}"], weights[f"weight_hh_l{layer}"], bias, "ifco"
        )
        outputs.append(value)
    chosen = np.concatenate([outputs[layer - 1] for layer in layers], axis=1)
    made: Array = chosen[: len(chosen) // 10 * 10].reshape(-1, 10, chosen.shape[1]).mean(axis=1)
    return made


def sound_of(seconds: float, seed: int = 0) -> Array:
    """Noise through a moving resonance, so that frames differ: (N,) float32."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tones = [np.sin(2 * np.pi * f * time + 3 * np.sin(5 * time)) for f in (210, 650, 2300)]
    made: Array = sum(tones) * 0.02 + random.normal(0, 0.005, len(time))
    return made.astype(np.float32)


@pytest.fixture(scope="module")
def loudness_detector() -> bytes:
    """A graph with the detector's interface: a hop is speech where it is loud, or the one before
    was very loud, which its state remembers."""
    build = GraphBuilder()

    def scaled(value: str, factor: float) -> Any:
        return build.node("Mul", value, np.array([factor], np.float32))

    def cut(value: str, *ends: int) -> Any:
        return build.node("Slice", value, *(np.array([end]) for end in ends))

    power = build.node("ReduceMean", build.node("Mul", "hops", "hops"), np.array([1]), keepdims=0)
    before = build.node("Reshape", cut("h", 0, 1, 2), np.array([1]))
    shifted = build.node("Concat", before, cut(power, 0, -1, 0), axis=0)
    loud = scaled(build.node("Add", power, scaled(shifted, 0.02)), 1e4)
    value = build.node("Sub", loud, np.array([1], np.float32))
    last = build.node("Reshape", cut(power, -1, 1 << 30, 0), np.array([1, 1, 1]))
    state = build.node("Expand", last, np.array([1, 1, 128]))
    shape = [1, 1, 128]
    return build.model(
        {"hops": ["N", 576], "h": shape, "c": shape},
        {
            "probabilities": (build.node("Sigmoid", value), ["N"]),
            "h_next": (state, shape),
            "c_next": ("c", shape),
        },
        "loudness",
    )


@pytest.mark.parametrize("layers", [(2, 3), (1, 2), (2,)])
def test_the_encoder_is_what_numpy_computes(layers: tuple[int, ...]) -> None:
    weights = encoder_weights()
    frames = np.lib.stride_tricks.sliding_window_view(sound_of(0.5), 400)[::160][:20]
    zeros = np.zeros((max(layers), 2, 256), np.float32)
    batch = np.stack([frames, frames[::-1]])
    graph = session(encoder_graph(weights, layers))
    made, h, c = graph.run(None, {"frames": batch, "h": zeros, "c": zeros})
    assert made.shape == (2, 2, 256 * len(layers))
    assert h.shape == c.shape == zeros.shape
    for row, part in zip(made, batch, strict=True):
        np.testing.assert_allclose(row, encode(part, weights, layers), atol=2e-5)
    assert np.ptp(made) > 0.3
    other = encoder_weights(seed=1)
    assert np.abs(made[0] - encode(batch[0], other, layers)).max() > 0.1


def test_the_encoder_in_steps_is_the_whole() -> None:
    graph = session(encoder_graph(encoder_weights(), (2, 3)))
    frames = np.lib.stride_tricks.sliding_window_view(sound_of(0.6), 400)[::160][None, :30]
    h = c = np.zeros((3, 1, 256), np.float32)
    [whole, *_], made = graph.run(None, {"frames": frames, "h": h, "c": c}), []
    for at in range(0, 30, 10):
        features, h, c = graph.run(None, {"frames": frames[:, at : at + 10], "h": h, "c": c})
        made.append(features)
    np.testing.assert_allclose(np.concatenate(made, axis=1), whole, atol=2e-6)
    assert np.abs(h).max() > 0.1


def detect(samples: Array, weights: dict[str, Array]) -> Array:
    """silero-vad as its publishers describe it, in float64: probabilities of (N * 512,)."""
    heard = np.concatenate([np.zeros(64), samples])
    window, codes = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256), []
    for at in range(0, len(samples), 512):
        hop = np.pad(heard[at : at + 576], (0, 64), mode="reflect")
        frames = np.stack([hop[start : start + 256] for start in (0, 128, 256, 384)])
        value = np.abs(np.fft.rfft(frames * window)).T
        for layer, stride in enumerate((1, 2, 2, 1)):
            kernel, bias = weights[f"encoder.{layer}.weight"], weights[f"encoder.{layer}.bias"]
            padded = np.pad(value, ((0, 0), (1, 1)))
            places = range(0, padded.shape[1] - 2, stride)
            columns = [np.tensordot(kernel, padded[:, p : p + 3], 2) + bias for p in places]
            value = np.maximum(np.stack(columns, axis=1), 0)
        codes.append(value[:, 0])
    bias = weights["B"][0, :512] + weights["B"][0, 512:]
    states = lstm(np.stack(codes), weights["W"][0], weights["R"][0], bias, "iofc")
    weighted = np.maximum(states, 0) @ weights["output.weight"][0]
    return sigmoid(weighted + weights["output.bias"])[:, 0]


def test_the_detector_is_what_numpy_computes_at_once_and_hop_by_hop() -> None:
    weights, samples = detector_weights(), sound_of(70 * 512 / RATE)
    graph = session(detector_graph(weights))
    made = Detector(graph).feed(samples.reshape(-1, 512))
    np.testing.assert_allclose(made, detect(samples, weights), atol=2e-5)
    assert np.ptp(made) > 0.02
    hops = Detector(graph)
    steps = [hops.feed(samples[None, at : at + 512]) for at in range(0, len(samples), 512)]
    np.testing.assert_allclose(np.concatenate(steps), made, atol=2e-6)


@pytest.fixture(scope="module")
def frontend(loudness_detector: bytes) -> Any:
    """Makes the front-end of rules, with random weights and the detector of loudness."""
    weights = encoder_weights()

    @cache
    def make(rules: Rules = RULES) -> Ge2e:
        contents = {
            "graph": encoder_graph(weights, rules.layers), "detector": loudness_detector
        }  # fmt: skip
        spec = FrontEndSpec(
            kind="ge2e", version=1, dim=512, frame_rate=10.0, features="made",
            settings=msgspec.to_builtins(rules),
            files={role: FileEntry.of(role, content) for role, content in contents.items()},
        )  # fmt: skip
        return Ge2e(spec, lambda entry: contents[entry.file])

    return make


def talk(*parts: float) -> Array:
    """Speech and silence in turns, of these seconds each, at 16 kHz."""
    made = [
        sound_of(seconds, seed=index) * (1.0, 0.01)[index % 2]
        for index, seconds in enumerate(parts)
    ]
    return np.concatenate(made)


def by_the_rules(samples: Array, rules: Rules) -> Array:
    """Features of samples at 16 kHz by a plain account: frame by frame, hop by hop."""
    hops = np.pad(samples, (64, -len(samples) % 512)).astype(np.float64)
    with_context = np.lib.stride_tricks.sliding_window_view(hops, 576)[::512]
    loud = np.square(with_context).mean(axis=1)
    speech = sigmoid((loud + 0.02 * np.concatenate([[0], loud[:-1]])) * 1e4 - 1) > rules.threshold
    powers = np.square(with_context[:, 64:]).mean(axis=1)
    heard, margin, frames = np.flatnonzero(speech), rules.margin * RATE, []
    for index in range(max(0, (len(samples) - 400) // 160 + 1)):
        middle = index * 160 + 200
        near = (heard * 512 - margin <= middle) & (middle < (heard + 1) * 512 + margin)
        if near.any():
            # The power until the first hop that keeps the frame, but not before it is known.
            until = max(int(near.argmax()) + 1, min(rules.level_hops, len(heard)))
            gain = 10 ** (rules.level / 20) / np.sqrt(powers[heard[:until]].mean())
            frames.append(samples[index * 160 : index * 160 + 400] * gain)
    made = [
        encode(np.stack(frames[at : at + rules.chunk]), encoder_weights(), rules.layers)
        for at in range(0, len(frames) // 10 * 10, rules.chunk)
    ]
    return np.concatenate([*made, np.zeros((0, 512))])


@pytest.mark.parametrize(
    "rules",
    [
        RULES,
        Rules(chunk=40, level=-20.0, threshold=0.6),
        Rules(level_hops=6, margin=0.05, layers=(1, 2)),
    ],
)
def test_a_whole_sound_goes_by_the_rules(frontend: Any, rules: Rules) -> None:
    samples = talk(0.5, 0.45, 0.6, 0.9, 0.4, 0.3)
    made = frontend(rules).whole((samples, RATE))
    wanted = by_the_rules(samples, rules)
    assert len(made) == len(wanted) > 14
    np.testing.assert_allclose(made, wanted, atol=1e-4)


def test_a_long_sound_is_run_in_parts_that_follow_on_each_other(frontend: Any) -> None:
    samples = talk(0.7, 0.4, 0.6)
    rules = Rules(chunk=10)
    made = frontend(rules).whole((samples, RATE))
    np.testing.assert_allclose(made, by_the_rules(samples, rules), atol=1e-4)


def streamed(front: Ge2e, samples: Array, rate: int, cuts: list[int]) -> Array:
    """Features by pieces, with a new front-end state from the old one's at each cut."""
    made = []
    front.reset()
    for start, stop in pairwise([0, *sorted(cuts), len(samples)]):
        made.append(front.stream(Sound(samples[start:stop], rate), last=stop == len(samples)))
        if stop < len(samples):
            state = front.state()
            front.stream((samples[:5000], rate), last=True)
            front.reset(state)
    return np.concatenate(made)


@settings(max_examples=12)
@given(rate=st.sampled_from([8000, 16000, 44100]), cuts=st.lists(st.integers(1, 8000), max_size=5))
def test_pieces_give_what_the_whole_gives(frontend: Any, rate: int, cuts: list[int]) -> None:
    front = frontend()
    samples = talk(0.3, 0.2, 0.3, 0.5, 0.3)[: rate + rate // 2]
    whole = front.whole((samples, rate))
    made = streamed(front, samples, rate, [cut for cut in cuts if cut < len(samples)])
    assert len(made) == len(whole) >= 5
    np.testing.assert_allclose(made, whole, atol=1e-4)


def test_features_are_there_soon(frontend: Any) -> None:
    """Once the last frame's hop is known, not at the end; and a next signal begins anew."""
    front, samples = frontend(), talk(0.8, 0.3, 0.5)
    front.reset()
    made = [front.stream((samples[at : at + 160], RATE)) for at in range(0, len(samples), 160)]
    rest = front.stream((samples[:0], RATE), last=True)
    whole = front.whole((samples, RATE))
    np.testing.assert_allclose(np.concatenate([*made, rest]), whole, atol=1e-4)
    assert len(rest) <= 1
    np.testing.assert_allclose(front.stream((samples, RATE), last=True), whole, atol=1e-4)


def test_what_is_no_speech_has_no_features(frontend: Any) -> None:
    front = frontend()
    front.reset()
    for samples in (np.zeros(0), np.zeros(3), np.zeros(RATE), talk(0.5)[:300] * 1e-4):
        assert front.whole((samples, RATE)).shape == (0, 512)
        assert front.stream((samples, RATE), last=True).shape == (0, 512)


def test_level_channels_and_type_do_not_matter(frontend: Any) -> None:
    front, samples = frontend(), talk(0.6) * 4
    wanted = front.whole((samples, RATE))
    integers = np.round(samples * 32768).astype(np.int16)
    dead = np.stack([samples, np.zeros_like(samples)], axis=1)
    np.testing.assert_allclose(front.whole((dead, RATE)), wanted, atol=1e-6)
    for other in (integers, samples * 2, np.stack([samples] * 2, axis=1)):
        np.testing.assert_allclose(front.whole((other, RATE)), wanted, atol=5e-3)
    clipped = front.whole((np.clip(samples, -0.1, 0.1), RATE))
    assert clipped.shape == wanted.shape
    assert np.isfinite(clipped).all()


def test_a_state_that_is_none_is_refused_and_changes_nothing(frontend: Any) -> None:
    front, samples = frontend(), talk(0.5)
    front.reset()
    front.stream((samples[:6000], RATE))
    state = front.state()
    wrong = [
        {},
        {**state, "more": np.zeros(1)},
        {**state, "h": state["h"][:2]},
        {**state, "samples": state["samples"] * np.nan},
        {**state, "samples": state["samples"][:10]},
        {**state, "offset": np.array(-1)},
        {**state, "done": np.array(100)},
        {**state, "mono_counts": np.array([7, 6000, 6000])},
        {**state, "kept": np.array([[5.0, 3.0, 1.0]])},
    ]
    for each in wrong:
        with pytest.raises(InputError, match=r"state|rate") as caught:
            front.reset(each)
        assert "\n" not in str(caught.value)
    for name, array in front.state().items():
        np.testing.assert_array_equal(array, state[name])


def test_a_specification_of_another_version_is_refused(frontend: Any) -> None:
    spec = frontend().describe()
    replace = msgspec.structs.replace
    for wrong, message in [
        (replace(spec, version=2), "got version 2, wanted 1"),
        (replace(spec, settings={"loud": 1}), "specification is damaged.*loud"),
        (replace(spec, files={}), "specification is damaged.*graph"),
    ]:
        with pytest.raises(BundleError, match=message):
            open_frontend(wrong, lambda _: b"")


def test_a_folder_is_made_of_the_published_files(tmp_path: Path) -> None:
    import torch

    named = {f"lstm.{name}": torch.from_numpy(a) for name, a in encoder_weights().items()}
    torch.save({"model_state": {**named, "linear.bias": torch.zeros(3)}}, tmp_path / "e.pt")
    detector = detector_weights()
    build = GraphBuilder()
    build.node("LSTM", "x", *(detector[n] for n in "WRB"), outputs=3, hidden_size=128)
    content = build.model({"x": ["T", 1, 128]}, {}, "")
    model = onnx.load_from_string(content)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name)
        for name, array in detector.items() if name not in "WRB"
    )  # fmt: skip
    onnx.save(model, tmp_path / "d.onnx")
    weights = resemblyzer_weights(tmp_path / "e.pt"), silero_weights(tmp_path / "d.onnx")
    spec = make_ge2e(*weights, tmp_path / "made", RULES)
    assert spec.identity == make_ge2e(*weights, tmp_path / "again", RULES).identity
    assert read_folder(tmp_path / "made")[0] == spec
    front = open_frontend(*read_folder(tmp_path / "made"))
    assert front.whole((talk(0.5), RATE)).shape[1] == spec.dim == 512
    frames = np.lib.stride_tricks.sliding_window_view(talk(0.2), 400)[::160][None, :10]
    zeros = np.zeros((3, 1, 256), np.float32)
    graph = session((tmp_path / "made" / "ge2e.onnx").read_bytes())
    made = graph.run(None, {"frames": frames, "h": zeros, "c": zeros})[0][0]
    np.testing.assert_allclose(made, encode(frames[0], encoder_weights(), (2, 3)), atol=2e-5)


def test_a_long_recording_is_cut_at_its_pauses(frontend: Any) -> None:
    front = frontend()
    samples = talk(1.5, 0.7, 2.0, 0.2, 1.0, 8.0, 0.1, 1.0, 1.0, 0.6)
    found = list(front.utterances((samples, RATE)))
    times = [(start, end) for start, end, _ in found]
    # A breath of .2 s does not cut, and .1 s of speech is no utterance.
    wanted = [(0.0, 1.5), (2.2, 5.4), (14.5, 15.5)]
    np.testing.assert_allclose(times, wanted, atol=0.2)
    for start, end, features in found:
        part = samples[round(start * RATE) : round(end * RATE)]
        np.testing.assert_allclose(features, front.whole((part, RATE)), atol=1e-5)


def test_speech_without_a_pause_is_cut_at_twelve_seconds(frontend: Any) -> None:
    found = list(frontend().utterances((talk(4.0, 0.3, 16.0), RATE)))
    times = np.array([(start, end) for start, end, _ in found])
    np.testing.assert_allclose(times, [(0, 4.15), (4.15, 16.1), (16.1, 20.3)], atol=0.5)
    assert max(times[:, 1] - times[:, 0]) <= 12.1


def test_a_short_recording_is_one_utterance_from_its_first_speech_to_its_last(
    frontend: Any,
) -> None:
    front = frontend()
    samples = np.concatenate([np.zeros(RATE, np.float32), talk(0.5, 0.8, 0.5, 1.0)])
    [(start, end, features)] = front.utterances((samples, RATE))
    np.testing.assert_allclose([start, end], [0.9, 2.9], atol=0.1)
    np.testing.assert_allclose(features, front.whole((samples, RATE)), atol=1e-6)
    for seconds in (0, 1, 13):
        assert list(front.utterances((np.zeros(seconds * RATE), RATE))) == []


def test_a_recording_of_a_file_is_held_in_part(frontend: Any, tmp_path: Path) -> None:
    """As much is in memory of five minutes as of one."""
    soundfile = pytest.importorskip("soundfile")
    front, peaks = frontend(), []
    for minutes in (1, 5):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", RATE, 1) as file:
            for _ in range(minutes * 4):
                file.write(talk(1.0, 14.0))
        tracemalloc.start()
        assert sum(1 for _ in front.utterances(path)) == minutes * 4
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_a_stream_holds_no_more_than_it_needs(frontend: Any) -> None:
    front = frontend()
    front.reset()
    # Frames too few for a feature wait through the silence for those after it.
    samples = talk(0.53, 6.0, 0.5)
    held, made = [], []
    for at in range(0, len(samples), 1600):
        made.append(front.stream((samples[at : at + 1600], RATE)))
        held.append(sum(array.nbytes for array in front.state().values()))
    made.append(front.stream((samples[:0], RATE), last=True))
    np.testing.assert_allclose(np.concatenate(made), front.whole((samples, RATE)), atol=1e-4)
    assert max(held) < 120_000


def test_every_node_has_a_name_of_its_own() -> None:
    """Older versions of ONNX Runtime refuse what they make of nodes without."""
    for content in (encoder_graph(encoder_weights(), (2, 3)), detector_graph(detector_weights())):
        names = [node.name for node in onnx.load_from_string(content).graph.node]
        assert len(set(names)) == len(names)
        assert all(names)
