"""Energy of an interval out of samples: counters are subtracted, power is integrated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from .machine import Readings

FEWEST = 4
"""Samples that must lie within an interval; its ends are interpolated, each off by up to one."""
_INPUTS = ("VIN", "VDD_IN", "POM_5V_IN")
"""Rails that feed all others: AGX Thor with its carrier; the module of Orin NX and Nano; Nano."""
_TOGETHER = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin; VDDQ_VDD2_1V8AO hangs on the last
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)
"""Rails of a module that has no common input sensor, which sum up to all of it."""


class Sample(Readings, kw_only=True, omit_defaults=True, tag="sample"):
    """Readings of one moment."""

    at: float
    """Seconds of `time.monotonic`, which all processes of a machine share."""
    busy: float | None = None
    """Seconds of CPU since boot that were not idle, all CPUs together."""
    stolen: float | None = None
    """Seconds of CPU since boot that the hypervisor gave to others."""
    idle: float | None = None


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """Energy of one interval. Other work on the machine is in it, and so is idling."""

    joules: float | None = None
    """Of all that `covers` names; None is not available, and `reason` says why."""
    covers: str = ""
    """The rails in it, such as `VDD_IN`. What is not named is not measured: a processor's package
    says nothing of a GPU in a slot."""
    rails: dict[str, float] = {}
    """Joules of every rail that could be read, also of those that others contain."""
    counted: bool = False
    """By counters alone; otherwise power was sampled and added up."""
    seconds: float = 0.0
    samples: int = 0
    """Within the interval."""
    gap: float = 0.0
    """The longest time between two of them, in seconds."""
    reason: str = ""

    @property
    def watts(self) -> float | None:
        """The average."""
        return None if self.joules is None or self.seconds <= 0 else self.joules / self.seconds


def energy_between(
    samples: Sequence[Sample], began: float, ended: float, missing: Sequence[str] = ()
) -> Energy:
    """Energy from `began` to `ended`, both in seconds of `time.monotonic`.

    missing: why sensors are absent, for the reason.
    """
    inside = [sample.at for sample in samples if began <= sample.at <= ended]
    seconds = max(0.0, ended - began)

    def unknown(reason: str) -> Energy:
        return Energy(reason=reason, seconds=seconds, samples=len(inside))

    if not any(sample.joules or sample.watts for sample in samples):
        return unknown("; ".join(missing) or "no sensor of energy or power was read")
    if len(inside) < FEWEST:
        return unknown(
            f"{len(inside)} samples lie within {seconds:.2f} s and it takes {FEWEST}; "
            "measure for longer, or sample more often"
        )
    if samples[0].at > began or samples[-1].at < ended:
        return unknown("the samples do not reach from the beginning to the end")
    before, after = [*samples[:1], *samples[:-1]], [*samples[1:], *samples[-1:]]
    near = [
        sample
        for earlier, sample, later in zip(before, samples, after, strict=True)
        if earlier.at < ended and later.at > began
    ]
    at, counted = np.array([sample.at for sample in near]), set()
    rails: dict[str, float] = {}
    # A GPU with a counter tells its power too; the counter is the better of the two.
    for kind in ("watts", "joules"):
        for rail in dict.fromkeys(name for sample in samples for name in getattr(sample, kind)):
            values = [getattr(sample, kind).get(rail) for sample in near]
            if None in values:
                continue  # it has a hole
            if kind == "watts":
                inner = at[(at > began) & (at < ended)]
                rails[rail] = _integral(np.concatenate(([began], inner, [ended])), at, values)
            else:
                rails[rail] = float(np.diff(np.interp([began, ended], at, values))[0])
                counted.add(rail)
    total, covers, reason = whole_device(rails)
    return Energy(
        joules=total,
        covers=", ".join(name.rpartition("/")[2] for name in covers),
        rails=rails,
        counted=total is not None and counted >= set(covers),
        seconds=seconds,
        samples=len(inside),
        gap=float(np.diff(inside).max()),
        reason="; ".join((reason, *missing)) if reason else "",
    )


def _integral(times: NDArray[np.float64], at: NDArray[np.float64], watts: list[float]) -> float:
    """Joules over some times, by the trapezoidal rule."""
    power = np.interp(times, at, watts)
    return float(np.sum(np.diff(times) * (power[1:] + power[:-1]) / 2))


def whole_device(rails: Mapping[str, float]) -> tuple[float | None, tuple[str, ...], str]:
    """The sum of those rails that together are the device, their names, or why it is unknown. No
    rail is added to one that contains it: a board's input rail has GPU and CPU in it."""
    board = {name.rpartition("/")[2]: name for name in rails if name.startswith(("ina/", "tegra"))}
    for name in _INPUTS:
        if name in board:
            return rails[board[name]], (board[name],), ""
    for together in _TOGETHER:
        if board.keys() >= set(together):
            chosen = tuple(board[name] for name in together)
            return sum(rails[name] for name in chosen), chosen, ""
    if board:
        names = ", ".join(board)
        return None, (), f"it is not known which of the rails {names} are the whole board"
    # Whole packages, and memory, which packages do not contain.
    processor = tuple(name for name in rails if re.fullmatch(r"rapl/(package[^/]*|.*\bdram)", name))
    if not processor:
        return None, (), "the processor's energy cannot be read, and without it the sum is not all"
    chosen = (*processor, *(name for name in rails if name.startswith("gpu")))
    return sum(rails[name] for name in chosen), chosen, ""
