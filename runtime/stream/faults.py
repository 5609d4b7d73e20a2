"""What is wrong with some of many streams, told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ifmmin.runtime.errors import BundleError, IfmminError, InputError

_MOST_NAMED = 8


def of_streams(faults: Mapping[int, IfmminError]) -> IfmminError:
    """One error for those of some streams, by their number: each reason once."""
    by_reason: dict[str, list[int]] = {}
    for number, fault in sorted(faults.items()):
        by_reason.setdefault(str(fault), []).append(number)
    told = "; ".join(f"{_named(numbers)}: {reason}" for reason, numbers in by_reason.items())
    lacks = any(isinstance(fault, BundleError) for fault in faults.values())
    return (BundleError if lacks else InputError)(told)


def of_stream(number: int, error: InputError) -> InputError:
    """The error of one of many streams."""
    return InputError(f"stream {number}: {error}")


def _named(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"stream {numbers[0]}"
    more = len(numbers) - _MOST_NAMED
    rest = f" and {more} more" if more > 0 else ""
    return f"streams {', '.join(map(str, numbers[:_MOST_NAMED]))}{rest}"
