"""What is present, what is missing and why, and what is refused; patterns, in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

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


GOOD = np.arange(15, dtype=np.float64).reshape(3, 5)
RECORD = np.dtype([("x", "f4"), ("y", "f4")])


def _torch(change: Any = lambda tensor: tensor) -> Any:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return change(torch.arange(15, dtype=torch.float32).reshape(3, 5))


def _pandas(change: Any = lambda frame: frame) -> Any:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    return change(pandas.DataFrame(GOOD))


class _Sub(np.ndarray):
    """An array by another name, as matrices and quantities with units are."""


class _Lies:
    """What has an `__array__` that raises, as tensors on a GPU have."""

    def __array__(self, *arguments: Any, **options: Any) -> NDArray[Any]:
        raise LookupError("nothing\nhere")


RIGHT: dict[str, Any] = {
    **{f"{order}{kind}": GOOD.astype(f"{order}{kind}")
       for order in "<>" for kind in ("f2", "f4", "f8", "i1", "i2", "i8", "u1", "u8")},
    "long double": GOOD.astype(np.longdouble), "lists": GOOD.tolist(),
    "tuples": tuple(map(tuple, GOOD)),
    "lists of arrays": list(GOOD),
    "lists of scalars": [[np.float16(x) for x in row] for row in GOOD],
    "columns first": np.asfortranarray(GOOD), "backwards": GOOD[::-1].copy()[::-1],
    "every other": np.repeat(GOOD, 2, axis=1)[:, ::2],
    "read-only": np.frombuffer(GOOD.tobytes()).reshape(3, 5),
    "a matrix": GOOD.view(_Sub),
    "a buffer": GOOD.data,
    "nothing masked": np.ma.array(GOOD), "a tensor": _torch,
    "a tensor of doubles": lambda: _torch(lambda t: t.double()),
    "a view of a tensor": lambda: _torch(lambda t: t.t().contiguous().t()), "pandas": _pandas,
}  # fmt: skip
REFUSED: dict[str, Any] = {
    "objects": GOOD.astype(object), "words": GOOD.astype(str), "bytes": GOOD.astype("S"),
    "complex": GOOD.astype(complex), "records": np.zeros((3, 5), RECORD),
    "times": GOOD.astype("M8[s]"),
    "spans": GOOD.astype("m8[s]"), "void": np.zeros((3, 5), "V4"), "ragged": [[1.0] * 5, [1.0] * 4],
    "None inside": [[1.0, None, 1.0, 1.0, 1.0]], "a word inside": [[1.0, "x", 1.0, 1.0, 1.0]],
    "a set": {1.0, 2.0}, "an object": {"a": 1}, "a generator": (x for x in GOOD), "a function": len,
    "text": "0.1 0.2", "huge integers": [[10**40] * 5],
    "a masked record": np.ma.zeros((3, 5), RECORD),
    "masked objects": np.ma.array(GOOD.astype(object), mask=GOOD > 3), "raises": _Lies(),
    "masked": np.ma.array(GOOD, mask=GOOD > 3),
    "masked integers": np.ma.array(GOOD.astype(int), mask=GOOD > 3),
    "masked rows": [np.ma.array(row, mask=row > 3) for row in GOOD],
    "NaN": np.where(GOOD > 3, np.nan, GOOD), "beyond float32": GOOD * 1e300,
    "an infinity": np.where(GOOD > 3, np.inf, GOOD), "flat": GOOD.ravel(), "deep": GOOD[None],
    "wide": np.zeros((3, 6)), "a number": 3.0,
    "more than may be": np.broadcast_to(np.float64(1), (10**9, 5)),
    "a tensor that learns": lambda: _torch(lambda t: t.requires_grad_()),
    "half a tensor": lambda: _torch(lambda t: t.bfloat16()),
    "a sparse tensor": lambda: _torch(lambda t: t.to_sparse()),
    "a tensor of nothing": lambda: _torch(lambda t: t.to("meta")),
    "mixed columns": lambda: _pandas(lambda f: f.assign(word="x")),
}  # fmt: skip


@pytest.mark.parametrize("kind", RIGHT)
def test_arrays_of_every_kind_are_read(kind: str) -> None:
    value = RIGHT[kind]() if callable(RIGHT[kind]) else RIGHT[kind]
    found = validate({"a": value}, SPECS).features[Modality.A]
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, GOOD)


@pytest.mark.parametrize("kind", REFUSED)
def test_arrays_of_no_kind_are_told(kind: str) -> None:
    value = REFUSED[kind]
    if getattr(value, "__name__", "") == "<lambda>":
        value = value()
    with pytest.raises(InputError, match="modality a") as caught:
        validate({"a": value}, SPECS)
    assert "\n" not in str(caught.value)


def test_what_is_masked_is_dropped_like_a_nan() -> None:
    masked = np.ma.array(GOOD, mask=np.zeros((3, 5), bool))
    masked[1, 2] = np.ma.masked
    found = validate({"a": masked}, SPECS, Policy("drop"))
    np.testing.assert_array_equal(found.features[Modality.A], GOOD[[0, 2]])
    assert found.dropped == {Modality.A: 1}
