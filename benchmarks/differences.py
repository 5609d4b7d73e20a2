"""What else changed between two runs: the machine, its software, the bundle, the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ifmmin.benchmarks.device.describe import describe
from ifmmin.benchmarks.record import Report

_PASSING = {"other work", "temperature", "throttling", "frequency", "looks that failed"}
"""Of the device, what is never the same twice; the A/A controls and the drift stand for it."""


def differences(before: Report, after: Report) -> list[tuple[str, str, str]]:
    """Name, before, after. What is a list of words is cut down to the words that differ."""
    found = []
    for facts in (_device, _bundle, _settings):
        first, second = facts(before), facts(after)
        for name in dict.fromkeys((*first, *second)):
            was, now = first.get(name, "none"), second.get(name, "none")
            if was != now:
                found.append((name, *_cut_down(was, now)))
    return found


def _device(report: Report) -> dict[str, str]:
    described = describe(report.device_before)
    return {name: text for name, text in described if name not in _PASSING}


def _bundle(report: Report) -> dict[str, str]:
    bundle = report.bundle
    return {
        "model": bundle.model,
        "labels": " ".join(bundle.labels),
        "checkpoint": bundle.checkpoint_sha256[:12],
        "manifest": bundle.manifest_sha256[:12],
    }


def _settings(report: Report) -> dict[str, str]:
    return dict(_flat(report.settings))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _cut_down(was: str, now: str) -> tuple[str, str]:
    first, second = was.split(", "), now.split(", ")
    kept = (
        [word for word in first if word not in second],
        [word for word in second if word not in first],
    )
    return ", ".join(kept[0]) or "none", ", ".join(kept[1]) or "none"
