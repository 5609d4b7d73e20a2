"""What a caller gives as a number: that it is one, and one that can be meant."""

from __future__ import annotations

import math
import operator
import reprlib
from numbers import Real

from ifmmin.runtime.errors import InputError

_LONGEST_INTEGER = 64
"""Bits of integers that a message spells out; Python refuses to write down very long ones."""


def as_number(name: str, value: object, wanted: str) -> float:
    """A finite real number as a float; InputError for anything else, True and False included."""
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise refusal(name, value, wanted)


def as_count(name: str, value: object, least: int, wanted: str) -> int:
    """An integer of at least `least`; InputError for anything else, True and False included."""
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise refusal(name, value, wanted) from None
    if isinstance(value, bool) or count < least:
        raise refusal(name, value, wanted)
    return count


def refusal(name: str, value: object, wanted: str) -> InputError:
    """The error for a value that is not what is wanted."""
    return InputError(f"{name}: got {shown(value)}, wanted {wanted}")


def shown(value: object) -> str:
    """A value in a few words on one line."""
    if isinstance(value, int) and value.bit_length() > _LONGEST_INTEGER:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, Real):
        return str(value)
    if value is None or isinstance(value, (str, bytes)):
        return reprlib.repr(value)
    return f"an object of type {type(value).__name__}"
