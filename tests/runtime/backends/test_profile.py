"""Sizes come from the manifest, and never lie where a graph has no meaning."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_bundles import graph_entry

from ifmmin.runtime.backends.profile import Shape, check_profile, profile_of
from ifmmin.runtime.bundle import GraphEntry, MissingSpec, ModalitySpec, ProfileSpec, StateSpec
from ifmmin.runtime.bundle.graph_file import TensorSpec
from ifmmin.runtime.errors import BundleError, InputError
from ifmmin.runtime.modality import Modality

A, T = Modality.A, Modality.T
MODALITIES = {
    modality: ModalitySpec(
        dim=dim, minimum_length=shortest, verified_length=200, frame_rate=rate, features="made",
        missing=MissingSpec(length=9, deviation=0.0, settled_at=9, tolerance=1e-6),
    )
    for modality, dim, shortest, rate in ((A, 5, 1, 10.0), (T, 11, 5, None))
}  # fmt: skip


def entry(
    shape: str, subject: str, states: tuple[StateSpec, ...] = (), **inputs: Shape
) -> GraphEntry:
    specs = (TensorSpec(name=n, dtype="float32", shape=s) for n, s in inputs.items())
    return graph_entry(shape, subject, states=states, inputs=tuple(specs))


VOICE = entry("latency", "a", a=("T_a", 5))
TEXT = entry("latency", "t", t=("T_t", 11))
BATCHES = entry("throughput", "a", a=("B", "T_a", 5), a_lengths=("B",))
HEAD = entry("head", "a", a=("B", 8))
STEP = entry("step", "a", frames=("B", "N", 5), hidden=("B", 8))
TAIL = StateSpec(name="tail", output="next_tail", initial=0.0, initial_shape=("B", 0, 11))
TEXT_STEP = entry("step", "t", (TAIL,), frames=("B", "N", 11), tail=("B", "S", 11))


def sizes(spec: ProfileSpec) -> list[tuple[int, ...]]:
    return [spec.minimum, spec.optimum, spec.maximum]


def change(modality: Modality, **fields: object) -> dict[Modality, ModalitySpec]:
    return {**MODALITIES, modality: msgspec.structs.replace(MODALITIES[modality], **fields)}


def test_latency_goes_from_the_minimum_to_what_was_verified() -> None:
    found = profile_of(VOICE, MODALITIES)
    assert list(found) == ["a"]
    assert sizes(found["a"]) == [(1, 5), (50, 5), (200, 5)]  # 5 s of 10 frames
    text = profile_of(TEXT, MODALITIES)
    assert sizes(text["t"]) == [(5, 11), (25, 11), (200, 11)]


@pytest.mark.parametrize(
    ("fields", "optimum"),
    [
        ({"frame_rate": 100.0}, 200),
        ({"frame_rate": 100.0, "verified_length": 2000}, 500),
        ({"frame_rate": 0.5, "minimum_length": 7}, 7),
        ({"frame_rate": None, "verified_length": 20}, 20),
    ],
)
def test_the_optimum_stays_inside(fields: dict[str, object], optimum: int) -> None:
    found = profile_of(VOICE, change(A, **fields))
    assert found["a"].optimum == (optimum, 5)


def test_batches_and_steps() -> None:
    found = profile_of(BATCHES, MODALITIES, batch=(2, 4, 16))
    assert sizes(found["a"]) == [(2, 1, 5), (4, 50, 5), (16, 200, 5)]
    assert sizes(found["a_lengths"]) == [(2,), (4,), (16,)]
    head = profile_of(HEAD, MODALITIES)
    assert sizes(head["a"]) == [(1, 8), (8, 8), (64, 8)]
    found = profile_of(STEP, MODALITIES, batch=(1, 1, 4))
    assert sizes(found["frames"]) == [(1, 1, 5), (1, 1, 5), (4, 200, 5)]
    assert sizes(found["hidden"]) == [(1, 8), (1, 8), (4, 8)]
    # A step of text always fills its largest kernel.
    found = profile_of(TEXT_STEP, MODALITIES, batch=(1, 1, 4))
    assert sizes(found["tail"]) == [(1, 4, 11), (1, 4, 11), (4, 4, 11)]
    assert found["tail"].minimum[1] + found["frames"].minimum[1] == MODALITIES[T].minimum_length


@given(
    minimum=st.integers(1, 40), more=st.integers(0, 3000), rate=st.none() | st.floats(0.01, 1000),
)  # fmt: skip
def test_no_profile_goes_below_the_minimum(minimum: int, more: int, rate: float | None) -> None:
    """TensorRT builds a convolution of 5 for 4 tokens without a word, so this is the only guard."""
    described = change(T, minimum_length=minimum, verified_length=minimum + more, frame_rate=rate)
    spec = profile_of(TEXT, described)["t"]
    low, middle, high = (shape[0] for shape in sizes(spec))
    assert minimum == low <= middle <= high == minimum + more


def test_what_the_manifest_does_not_tell_is_refused() -> None:
    with pytest.raises(BundleError, match="does not describe modality a"):
        profile_of(VOICE, {T: MODALITIES[T]})
    odd = msgspec.structs.replace(VOICE.inputs[0], shape=("K", 5))
    with pytest.raises(BundleError, match=r"input a of .* has a size 'K'"):
        profile_of(msgspec.structs.replace(VOICE, inputs=(odd,)), MODALITIES)


@pytest.mark.parametrize("batch", [(0, 1, 2), (4, 2, 8), (1, 8, 4)])
def test_a_batch_rises(batch: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="three that rise from at least 1"):
        profile_of(VOICE, MODALITIES, batch=batch)


GRAPH: dict[str, Shape] = {"a": ("B", "T_a", 5), "a_lengths": ("B",)}
GOOD = {
    "a": ProfileSpec(minimum=(1, 1, 5), optimum=(2, 9, 5), maximum=(4, 20, 5)),
    "a_lengths": ProfileSpec(minimum=(1,), optimum=(2,), maximum=(4,)),
}


@pytest.mark.parametrize(
    ("name", "minimum", "optimum", "maximum", "message"),
    [
        ("v", (1,), (1,), (1,), "names an input 'v'; the graph has a, a_lengths"),
        ("a", (1, 5), (2, 5), (4, 5), r"the graph's shape is \('B', 'T_a', 5\)"),
        ("a", (1, 1, 6), (2, 9, 6), (4, 20, 6), "it takes 5 only"),
        ("a", (1, 9, 5), (2, 5, 5), (4, 20, 5), r"\(9, 5, 20\); sizes that rise"),
        ("a", (1, 1, 5), (2, 30, 5), (4, 20, 5), r"\(1, 30, 20\); sizes that rise"),
        # TensorRT sees neither of these: it compares the optima alone.
        ("a_lengths", (2,), (2,), (4,), r"B = \(2, 2, 4\) for input a_lengths and \(1, 2, 4\)"),
        ("a_lengths", (1,), (2,), (3,), "sizes of one name must be equal"),
    ],
)
def test_unfit_profiles(name: str, minimum: Any, optimum: Any, maximum: Any, message: str) -> None:
    check_profile(GRAPH, GOOD)
    spec = ProfileSpec(minimum=minimum, optimum=optimum, maximum=maximum)
    with pytest.raises(InputError, match=message):
        check_profile(GRAPH, {**GOOD, name: spec})


def test_an_open_input_needs_a_profile() -> None:
    with pytest.raises(InputError, match="lacks input a_lengths"):
        check_profile(GRAPH, {"a": GOOD["a"]})
    check_profile({"a": (3, 5)}, {})
