"""What is pushed, by modality, in whichever of two forms it was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.stream.numeric import refusal


def given_once(frames: object, named: Mapping[str, Any]) -> dict[Any, Any]:
    """Frames per modality of a mapping and of keywords; None is nothing.

    Raises InputError where `frames` is no mapping, or a modality is in both.
    """
    found = {letter: x for letter, x in named.items() if x is not None}
    if frames is None:
        return found
    if not isinstance(frames, Mapping):
        raise refusal("frames", frames, "a mapping such as {'a': array}; or write push(a=array)")
    for letter, value in frames.items():
        if letter in found and value is not None:
            raise InputError(f"modality {Modality.of(letter)}: got frames twice; give them once")
        found.setdefault(letter, value)
    return found
