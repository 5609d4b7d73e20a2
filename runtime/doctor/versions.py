"""Numbers out of text that anybody may have written."""

from __future__ import annotations

import re

_DIGITS = re.compile(r"-?[0-9]{1,15}")


def integer(text: str) -> int | None:
    """The number at the start of a text: `1410 MHz` is 1410, `[N/A]` is None."""
    found = _DIGITS.match(text.strip())
    return int(found.group()) if found else None


def version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: `6.2.1+b38` is (6, 2, 1); of anything else ()."""
    found = re.match(r"[0-9]{1,9}(?:\.[0-9]{1,9})*", text.strip())
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def major(text: str) -> int | None:
    """The first number of a version."""
    return next(iter(version(text)), None)
