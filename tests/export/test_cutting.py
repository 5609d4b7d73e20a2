"""Calls that are cut to fit an engine say what one call says, for the steps of every network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from exported import load

from ifmmin.export.missing import measure_missing
from ifmmin.export.precision import PRECISIONS
from ifmmin.export.shapes import Plan, plan_step
from ifmmin.export.writer import modality_specs
from ifmmin.runtime.backends import Loaded, Runner
from ifmmin.runtime.backends.profile import profile_of
from ifmmin.runtime.cutting import within
from ifmmin.runtime.manifest import GraphEntry, ProfileSpec
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.runtime.step import ModalityStream

ROWS, FRAMES = 3, 7
"""Most streams and new frames of a call here."""
GIVEN = (5, 23, 1, 8)
"""New frames of the calls of five streams."""


class _Strict:
    """A runner that takes what is in a profile only."""

    def __init__(self, run: Runner, profile: Mapping[str, ProfileSpec]) -> None:
        self._run, self._profile = run, profile
        self.calls = 0

    def __call__(self, inputs: Mapping[str, Any]) -> list[Any]:
        for name, spec in self._profile.items():
            sizes = zip(spec.minimum, inputs[name].shape, spec.maximum, strict=True)
            assert all(low <= size <= high for low, size, high in sizes), (name, inputs[name].shape)
        self.calls += 1
        return self._run(inputs)


class _Case:
    """A step graph with its profile for few streams and frames."""

    def __init__(self, network: Any, modality: Modality, precision: str) -> None:
        plan = plan_step(network, modality, PRECISIONS[precision])
        specs = modality_specs(network, measure_missing(network))
        self.entry = _entry(plan, modality, precision)
        self.run = load(plan)
        self.profile = profile_of(self.entry, specs, batch=(1, 1, ROWS))
        frames = self.profile["frames"]
        few = (ROWS, FRAMES, frames.maximum[2])
        self.profile["frames"] = ProfileSpec(
            minimum=frames.minimum, optimum=frames.optimum, maximum=few
        )
        self.strict = _Strict(self.run, self.profile)
        self.dim = few[2]

    def cut(self) -> Runner:
        return within(Loaded(self.strict, self.entry), self.profile).run

    def frames(self, count: int, streams: int = 5) -> Any:
        rng = np.random.default_rng(count)
        return rng.normal(0.5, 2.0, (streams, count, self.dim)).astype(np.float32)


def _entry(plan: Plan, modality: Modality, precision: str) -> GraphEntry:
    return GraphEntry(
        shape="step", subject=modality.value, precision=precision, recurrence="lstm", file="step",
        sha256="", bytes=0, opset=18, inputs=plan.inputs, outputs=plan.outputs,
        states=plan.states, parity={},
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-qdq"])
def test_cut_calls_say_what_one_call_says(make_network: Any, kind: str, precision: str) -> None:
    network = make_network(kind)
    for modality in MODALITIES:
        case = _Case(network, modality, precision)
        cut = ModalityStream(case.entry, case.cut(), streams=5)
        whole = ModalityStream(case.entry, case.run, streams=5)
        for count in GIVEN:
            found, wanted = cut.push(case.frames(count)), whole.push(case.frames(count))
            _require_close(found, wanted, precision)
            for name, value in cut._kept.items():
                _require_close(value, whole._kept[name], precision)
        # Two blocks of streams; and 23 frames are four calls of each.
        assert case.strict.calls >= 2 * (1 + 4 + 1 + 2)


def _require_close(found: Any, wanted: Any, precision: str) -> None:
    """Sums may be added up in another order."""
    assert found.shape == wanted.shape
    tolerance = 2e-6 if precision == "fp32" else 2e-2
    scale = max(1.0, float(np.abs(wanted).max()))
    assert np.abs(found - wanted).max() <= tolerance * scale


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", ["if-mmin", "transforms"])
def test_text_is_the_same_to_the_last_bit(make_network: Any, kind: str, precision: str) -> None:
    """The graph makes of the first frames what it would have kept of them."""
    case = _Case(make_network(kind), Modality.T, precision)
    for count in (5, 6, 11):
        cut = ModalityStream(case.entry, case.cut())
        whole = ModalityStream(case.entry, case.run)
        frames = case.frames(count, streams=1)
        np.testing.assert_array_equal(cut.push(frames), whole.push(frames))
        np.testing.assert_array_equal(cut._kept["tail"], whole._kept["tail"])
    assert case.strict.calls == 2 + 2 + 2


@pytest.mark.parametrize(
    ("kind", "precision", "raw"),
    [("if-mmin", "fp32", True), ("transforms", "fp32", False), ("if-mmin", "fp16", False)],
)
def test_frames_themselves_are_not_what_is_kept(
    make_network: Any, kind: str, precision: str, raw: bool
) -> None:
    """The control: to begin with the first frames as they are is wrong behind most fronts."""
    case = _Case(make_network(kind), Modality.T, precision)
    frames = case.frames(9, streams=1)
    wanted = ModalityStream(case.entry, case.run)
    wanted.push(frames)
    naive = ModalityStream(case.entry, case.run)
    naive._kept["tail"] = frames[:, :4]
    naive.push(frames[:, 4:])
    same = [np.array_equal(naive._kept[n], value) for n, value in wanted._kept.items()]
    assert all(same) == raw


def test_too_few_frames_to_begin_with_are_refused_as_ever(make_network: Any) -> None:
    case = _Case(make_network(), Modality.T, "fp32")
    stream = ModalityStream(case.entry, case.cut())
    with pytest.raises(AssertionError, match="tail"):
        stream.push(case.frames(4, streams=1))
    frames = case.frames(9, streams=1)
    wanted = ModalityStream(case.entry, case.run).push(frames)
    np.testing.assert_array_equal(stream.push(frames), wanted)
