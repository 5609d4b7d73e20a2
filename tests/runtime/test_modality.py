"""Patterns, in any order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import ALL_PATTERNS, INCOMPLETE_PATTERNS, Modality, Pattern


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
