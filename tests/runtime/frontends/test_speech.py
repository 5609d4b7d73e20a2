"""Speech in a sound: the frames that are kept, and their level as it is known by and by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifmmin.runtime.frontends.speech import HOP, Gate, Stretch

MARGIN = 1600


def gate(settle: int) -> Gate:
    return Gate(step=160, middle=200, margin=MARGIN, settle=settle)


def test_the_level_is_known_after_some_speech_and_followed_from_there() -> None:
    speech = np.array([character == "#" for character in "..####......................##"])
    powers, spoken = np.arange(30.0), [2, 3, 4, 5, 28, 29]
    made = gate(3).feed(speech, powers)
    wanted = [np.mean(spoken[:count]) for count in (3, 3, 3, 4, 5, 6)]
    assert [stretch.power for stretch in made] == pytest.approx(wanted)
    few = gate(9)
    assert few.feed(speech, powers) == []
    assert few.oldest() == 0
    made = few.feed(speech[:0], powers[:0], last=True)
    assert [stretch.power for stretch in made] == pytest.approx([np.mean(spoken)] * 6)


def test_the_level_forgets() -> None:
    long = gate(8)
    long.feed(np.ones(10_000, bool), np.ones(10_000))
    [*_, last] = long.feed(np.ones(2_000, bool), np.full(2_000, 4.0))
    assert last.power == pytest.approx(4, abs=0.05)


@given(hops=st.lists(st.booleans(), max_size=60), cut=st.integers(0, 60))
def test_a_frame_is_kept_near_speech(hops: list[bool], cut: int) -> None:
    speech = np.array(hops, bool)
    kept = [
        index
        for index in range(len(hops) * HOP // 160 + 30)
        if any(
            -MARGIN <= index * 160 + 200 - h * HOP < HOP + MARGIN for h in np.flatnonzero(speech)
        )
    ]
    walk = gate(1)
    made: list[Stretch] = []
    for part in (speech[:cut], speech[cut:]):
        oldest = walk.oldest()
        fresh = walk.feed(part, np.ones(len(part)))
        # What might be needed yet was told before.
        assert all(stretch.first >= oldest for stretch in fresh)
        made += fresh
    assert [frame for first, last, _ in made for frame in range(first, last)] == kept
