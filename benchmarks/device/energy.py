"""Energy of an interval out of samples: counters are subtracted, power is integrated."""

from __future__ import annotations

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
    counters = {rail: _counted(samples, rail, began, ended) for rail in _names(samples, "joules")}
    sums = {rail: _integrated(samples, rail, began, ended) for rail in _names(samples, "watts")}
    # A GPU with a counter tells its power too; the counter is the better of the two.
    known = {name: value for name, value in counters.items() if value is not None}
    rails = {name: value for name, value in sums.items() if value is not None} | known
    total, covers, reason = whole_device(rails)
    return Energy(
        joules=total,
        covers=", ".join(name.rpartition("/")[2] for name in covers),
        rails=rails,
        counted=total is not None and known.keys() >= set(covers),
        seconds=seconds,
        samples=len(inside),
        gap=float(np.diff(inside).max()),
        reason="; ".join((reason, *missing)) if reason else "",
    )


def _names(samples: Sequence[Sample], kind: str) -> list[str]:
    return list(dict.fromkeys(name for sample in samples for name in getattr(sample, kind)))


def _series(
    samples: Sequence[Sample], kind: str, rail: str, began: float, ended: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Times and values of one rail; None where it does not span the interval without a hole."""
    around = [s for i, s in enumerate(samples) if _matters(samples, i, began, ended)]
    values = [getattr(sample, kind).get(rail) for sample in around]
    if any(value is None for value in values):
        return None
    return np.array([sample.at for sample in around]), np.array(values, dtype=np.float64)


def _matters(samples: Sequence[Sample], index: int, began: float, ended: float) -> bool:
    """Whether a sample lies within the interval, or next to it."""
    after = samples[min(index + 1, len(samples) - 1)].at
    before = samples[max(index - 1, 0)].at
    return after > began and before < ended


def _counted(samples: Sequence[Sample], rail: str, began: float, ended: float) -> float | None:
    series = _series(samples, "joules", rail, began, ended)
    if series is None:
        return None
    first, last = np.interp([began, ended], *series)
    return float(last - first)


def _integrated(samples: Sequence[Sample], rail: str, began: float, ended: float) -> float | None:
    """By the trapezoidal rule."""
    series = _series(samples, "watts", rail, began, ended)
    if series is None:
        return None
    at, watts = series
    inner = (at > began) & (at < ended)
    times = np.concatenate(([began], at[inner], [ended]))
    power = np.interp(times, at, watts)
    return float(np.sum(np.diff(times) * (power[1:] + power[:-1]) / 2))


def whole_device(rails: Mapping[str, float]) -> tuple[float | None, tuple[str, ...], str]:
    """The sum of those rails that together are the device, their names, or why it is unknown.

    No rail is added to one that contains it: a board's input rail has GPU and CPU in it.
    """
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
    processor = tuple(name for name in rails if _is_package(name))
    if not processor:
        return None, (), "the processor's energy cannot be read, and without it the sum is not all"
    chosen = (*processor, *(name for name in rails if name.startswith("gpu")))
    return sum(rails[name] for name in chosen), chosen, ""


def _is_package(rail: str) -> bool:
    """Whether it is a whole package, or memory, which packages do not contain."""
    parts = rail.split("/")
    return parts[0] == "rapl" and (
        (len(parts) == 2 and parts[1].startswith("package")) or parts[-1] == "dram"
    )
