"""What is present, what is missing and why, and what is refused; patterns, in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ifmmin.runtime.bundle import MissingSpec, ModalitySpec
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import ALL_PATTERNS, INCOMPLETE_PATTERNS, MODALITIES, Modality, Pattern
from ifmmin.runtime.validate import Policy, is_finite, nothing_present, validate

_MISSING = MissingSpec(length=5, deviation=0.0, settled_at=5, tolerance=1e-6)
SPECS = {
    modality: ModalitySpec(
        dim=dim, minimum_length=5 if modality is Modality.T else 1, verified_length=100,
        frame_rate=None, features="numbers", missing=_MISSING,
    )
    for modality, dim in zip(MODALITIES, (5, 7, 11), strict=True)
}  # fmt: skip
DROP = Policy(nan_frames="drop")


def _ones(frames: int, dim: int = 5) -> np.ndarray:
    return np.ones((frames, dim), np.float32)


def test_a_conforming_array_is_passed_on_as_it_is() -> None:
    a, t = _ones(9), _ones(6, 11)
    found = validate({"t": t, Modality.A: a}, SPECS)
    assert list(found.features) == [Modality.A, Modality.T]
    assert found.features[Modality.A] is a
    assert found.features[Modality.T] is t
    assert found.absent == {"v": "not given"}
    assert found.dropped == {}
    # Only some are looked at.
    utterance = {"a": _ones(3), "v": "no array at all"}
    found = validate(utterance, SPECS, only=Pattern.parse("a_t"))
    assert list(found.features) == ["a"]
    assert found.absent == {"v": "left out by pattern a_t", "t": "not given"}


def test_what_is_missing_and_why() -> None:
    utterance = {"a": None, "v": np.zeros((0, 7)), "t": np.full((3, 11), np.nan)}
    found = validate(utterance, SPECS)
    assert found.features == {}
    assert found.absent == {"a": "not given", "v": "empty", "t": "all frames are NaN"}
    error = str(nothing_present(found.absent))
    assert "is present (a: not given; v: empty; t: all frames are NaN); give at least" in error
    assert validate({}, SPECS).absent == dict.fromkeys("avt", "not given")


def test_nan_is_refused_or_dropped_by_the_frame() -> None:
    a = _ones(4)
    a[1, 2] = a[3] = np.nan
    with pytest.raises(InputError, match=r"nan at frame 1, column 2.*--nan drop"):
        validate({"a": a}, SPECS)
    found = validate(
        {"a": a, "v": np.full((2, 7), np.nan), "t": np.eye(2, 11) * np.nan}, SPECS, DROP
    )
    np.testing.assert_array_equal(found.features[Modality.A], _ones(2))
    assert found.absent == {"v": "all frames are NaN", "t": "all frames are NaN"}
    assert found.dropped == {"a": 2, "v": 2, "t": 2}
    a[:, 0] = np.nan
    assert validate({"a": a}, SPECS, DROP).absent[Modality.A] == "every frame has a NaN"


def test_what_is_left_of_a_text_is_padded() -> None:
    t = _ones(6, 11)
    t[2:] = np.nan
    found = validate({"t": t}, SPECS, DROP)
    assert found.features[Modality.T].shape == (5, 11)
    assert found.features[Modality.T].sum() == 22
    assert found.dropped == {"t": 4}


@pytest.mark.parametrize("policy", [Policy(), DROP])
def test_infinities_stay_errors(policy: Policy) -> None:
    a = _ones(4)
    a[0, 0], a[2, 1] = np.nan, -np.inf
    with pytest.raises(InputError, match="-inf at frame 2, column 1"):
        validate({"a": a}, SPECS, policy)
    with pytest.raises(InputError, match="inf at frame 0, column 0"):
        validate({"a": np.full((2, 5), 1e300)}, SPECS, policy)


def test_quality_below_the_threshold_is_missing() -> None:
    policy = Policy(minimum_quality={Modality.A: 0.5, Modality.V: 0.5})
    utterance = {"a": _ones(3), "v": np.full((2, 7), np.inf), "t": _ones(5, 11)}
    found = validate(utterance, SPECS, policy, {"a": 0.5, "v": 0.2, "t": 0.0})
    assert list(found.features) == ["a", "t"]
    assert found.absent == {"v": "quality 0.2 is below 0.5"}
    for unknown in (None, {}, {"a": None}):
        assert Modality.A in validate({"a": _ones(3)}, SPECS, policy, unknown).features
    lost = validate({"a": _ones(3)}, SPECS, policy, {"a": float("nan")})
    assert lost.absent[Modality.A] == "quality nan is below 0.5"


@pytest.mark.parametrize(
    ("utterance", "wanted"),
    [
        ({"x": None}, "unknown modality 'x'"),
        ({"a": _ones(3), 7: None}, "unknown modality '7'"),
        ({"a": np.zeros((3, 6))}, r"got shape \(3, 6\), wanted \(frames, 5\): numbers"),
        ({"a": np.zeros(5)}, r"got shape \(5,\)"),
        ({"a": 1.0}, r"got shape \(\)"),
        ({"a": [[1.0], [1.0, 2.0]]}, "wanted numbers"),
        ({"a": np.zeros((1, 5), complex)}, "complex128, wanted numbers"),
    ],
)
def test_what_is_refused(utterance: Any, wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        validate(utterance, SPECS)


def test_other_mistakes() -> None:
    with pytest.raises(InputError, match="knows no modality v; it knows a"):
        validate({"v": _ones(2, 7)}, {Modality.A: SPECS[Modality.A]})
    with pytest.raises(InputError, match="got 'keep', wanted refuse or drop"):
        Policy(nan_frames="keep")
    with pytest.raises(InputError, match="minimum quality of a: got nan"):
        Policy(minimum_quality={Modality.A: float("nan")})
    wrong: list[Any] = [{"x": 1.0}, {"a": "good"}]
    for quality in wrong:
        with pytest.raises(InputError, match=r"unknown modality 'x'|wanted a number"):
            validate({"a": _ones(2)}, SPECS, Policy(minimum_quality={Modality.A: 1.0}), quality)


def test_other_layouts_and_types_become_float32() -> None:
    truth = np.arange(15, dtype=np.float32).reshape(3, 5)
    same: list[Any] = [truth.tolist(), truth.astype("f8"), truth.astype(">f4"), truth.astype("f2")]
    for value in [*same, truth.astype(int), np.asfortranarray(truth), np.repeat(truth, 2, 0)[::2]]:
        array = validate({"a": value}, SPECS).features[Modality.A]
        assert array.flags.c_contiguous
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, truth)


_SHAPES = arrays.array_shapes(min_dims=2, max_dims=2)


@given(arrays.arrays(np.float32, _SHAPES, elements=st.floats(width=32)))
def test_finite_means_finite(array: np.ndarray) -> None:
    assert is_finite(array) == np.isfinite(array).all()


@pytest.mark.parametrize("frames", [1, 1999, 2000, 2001, 4001, 6000])
def test_finite_in_blocks(frames: int) -> None:
    array = np.full((frames, 5), 3e38, np.float32)
    assert is_finite(array)
    for value in (np.nan, np.inf, -np.inf):
        broken = array.copy()
        broken[-1, -1] = value
        assert not is_finite(broken)


@given(st.sets(st.sampled_from("avt"), min_size=1).flatmap(lambda s: st.permutations(sorted(s))))
def test_any_order_is_read_and_printed_canonically(letters: list[str]) -> None:
    pattern = Pattern.parse("_".join(letters))
    assert str(pattern) == "_".join(sorted(letters, key="avt".index))
    assert pattern in ALL_PATTERNS
    assert set(pattern) | set(pattern.missing) == set(Modality)


def test_all_seven() -> None:
    assert [str(p) for p in ALL_PATTERNS] == ["a", "v", "t", "a_v", "a_t", "v_t", "a_v_t"]
    assert len(INCOMPLETE_PATTERNS) == 6


@pytest.mark.parametrize("text", ["", "x", "a_x", "a__t", "a_a", "atv"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        Pattern.parse(text)
