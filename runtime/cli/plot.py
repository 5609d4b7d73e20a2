"""Plot of `ifmmin-run --plot`: probabilities over time or per input, and what was present."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import BackendUnavailable, InputError
from ..files import atomic_file, keep_fonts_in_cache, require_writable_file
from ..modality import Modality
from .writers import Answer, Writer

SUFFIXES = (".png", ".svg", ".pdf")
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Told apart by colour-blind people too (Paul Tol's bright scheme)."""
_MOST_NAMES = 24


def require_plot(path: Path) -> None:
    """InputError or BackendUnavailable where nothing could be drawn there; before the work."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--plot {path}: wanted a name that ends in {', '.join(SUFFIXES)}")
    require_writable_file(path)
    if find_spec("matplotlib") is None:
        raise BackendUnavailable("--plot needs matplotlib: pip install 'ifmmin[plot]'")


class PlotWriter(Writer):
    """Draws all answers when they are there: one strip per recording, or one for the inputs."""

    def __init__(self, labels: Sequence[str], modalities: Sequence[Modality], path: Path) -> None:
        self._labels = labels
        self._modalities = modalities
        self._path = path
        self._answers: list[Answer] = []

    def add(self, answer: Answer) -> None:
        """Keep it."""
        self._answers.append(answer)

    def close(self) -> None:
        """Draw, if there is anything to draw."""
        if not self._answers:
            return
        keep_fonts_in_cache()
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (4, 1)})
        one = len({answer.name for answer in self._answers}) == 1
        timed = one and all(answer.span for answer in self._answers) and len(self._answers) > 1
        spans = [
            (answer.span if timed and answer.span else (i - 0.4, i + 0.4))
            for i, answer in enumerate(self._answers)
        ]
        above.set_xlim(spans[0][0], spans[-1][1])
        self._draw_shares(above, spans)
        self._draw_lights(below, spans)
        if timed:
            below.set_xlabel("seconds")
            above.set_title(self._answers[0].name, fontsize="medium")
        else:
            self._name_inputs(below)
        with atomic_file(self._path) as part, part.open("wb") as file:
            figure.savefig(file, format=self._path.suffix[1:].lower(), dpi=120)

    def _draw_shares(self, axes: Any, spans: Sequence[tuple[float, float]]) -> None:
        """Stacked bars: an answer's probabilities are as high as they are sure."""
        bottoms = [0.0] * len(spans)
        for number, label in enumerate(self._labels):
            shares = [float(answer.prediction.probabilities[number]) for answer in self._answers]
            axes.bar(
                [start for start, _ in spans], shares, [end - start for start, end in spans],
                bottoms, align="edge", color=_COLOURS[number % len(_COLOURS)], label=label,
            )  # fmt: skip
            bottoms = [b + s for b, s in zip(bottoms, shares, strict=True)]
        axes.set_ylim(0, 1)
        axes.set_ylabel("probability")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)

    def _draw_lights(self, axes: Any, spans: Sequence[tuple[float, float]]) -> None:
        """A row per modality, lit where it was present."""
        for row, modality in enumerate(self._modalities):
            lit = [modality in (answer.prediction.pattern or ()) for answer in self._answers]
            axes.barh(
                [row] * len(spans), [end - start for start, end in spans], 0.7,
                [start for start, _ in spans],
                color=["#228833" if on else "#e4e4e4" for on in lit],
            )  # fmt: skip
        names = [modality.word for modality in self._modalities]
        axes.set_yticks(range(len(names)), names, fontsize="small")
        axes.invert_yaxis()

    def _name_inputs(self, axes: Any) -> None:
        if len(self._answers) <= _MOST_NAMES:
            names = [answer.name for answer in self._answers]
            axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize="small")
        else:
            axes.set_xlabel("input")
