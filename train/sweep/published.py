"""Published figures of a corpus, and the table that puts a sweep beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ifmmin.runtime.console import markdown_table

from .plan import Plan
from .results import Result, Spread, columns_of, spreads


class Published(NamedTuple):
    """A row of a paper's table."""

    name: str
    """Method and paper."""
    wa: tuple[float, ...]
    """Percent, in the order of COLUMNS."""
    ua: tuple[float, ...]


COLUMNS = ("a", "v", "t", "a_v", "a_t", "v_t", "mean of six")
_IEMOCAP = (
    Published(
        "MMIN (Zhao et al., ACL 2021)",
        (56.58, 52.52, 66.57, 63.99, 72.94, 71.67, 64.05),
        (59.00, 51.60, 68.02, 65.43, 75.14, 73.61, 65.47),
    ),
    Published(
        "IF-MMIN (Zuo et al., ICASSP 2023)",
        (56.20, 51.97, 67.02, 65.33, 74.05, 72.68, 64.54),
        (58.13, 50.41, 68.20, 66.52, 75.44, 74.12, 65.38),
    ),
    Published(
        "CIF-MMIN (TAFFC 2024)",
        (56.25, 53.33, 68.04, 65.69, 74.27, 73.17, 65.13),
        (58.44, 51.34, 69.26, 66.85, 75.65, 73.98, 65.92),
    ),
)
_OF: dict[str, tuple[Published, ...]] = {"iemocap": _IEMOCAP, "msp-improv": ()}
_NOTE = """\
WA / UA in percent. Here: mean over units ± deviation over seeds of the mean over folds. The papers
give no deviation; those of IF-MMIN and of CIF-MMIN were copied, not checked; IF-MMIN's 65.38 is not
the mean of its six, which is 65.47. A difference of a point is of the size that seeds move."""
_NONE = """\
None are kept for this corpus: no table of the six patterns with these features and twelve folds is
known here. What stands above is this implementation's, and compares models with each other."""


def published_section(plan: Plan, results: Mapping[str, Sequence[Result]]) -> str | None:
    """A section of results.md; None for a corpus that no protocol of the literature is kept of."""
    corpus = next(iter(plan.entries.values())).corpus
    rows = _OF.get(getattr(corpus, "name", ""))
    if rows is None:
        return None
    missing = _shortfall(plan, results, getattr(corpus, "folds", 0))
    text = _NONE
    if rows:
        ours = [[name, *_cells(some)] for name, some in results.items()]
        theirs = [
            [row.name, *(f"{wa:.2f} / {ua:.2f}" for wa, ua in zip(row.wa, row.ua, strict=True))]
            for row in rows
        ]
        text = f"{_NOTE}\n\n{markdown_table(['', *COLUMNS], [*ours, *theirs])}"
    return "## Beside published figures\n\n" + "\n\n".join([*missing, text])


def _shortfall(plan: Plan, results: Mapping[str, Sequence[Result]], folds: int) -> list[str]:
    """What keeps the sweep from being the protocol's, one paragraph."""
    units = folds * len(plan.seeds)
    short = [
        f"{name} {len(some)} of {units}" for name, some in results.items() if len(some) < units
    ]
    if not short:
        return []
    return [f"**Not the whole protocol**, which has {folds} folds: {', '.join(short)} units."]


def _cells(results: Sequence[Result]) -> list[str]:
    wa, ua = (spreads(results, figure) for figure in ("wa", "ua"))
    own = columns_of(results[0].patterns)
    return [f"{_percent(wa[c])} / {_percent(ua[c])}" if c in own else "-" for c in COLUMNS]


def _percent(spread: Spread) -> str:
    if math.isnan(spread.mean):
        return "-"
    deviation = "" if math.isnan(spread.over_seeds) else f" ± {100 * spread.over_seeds:.2f}"
    return f"{100 * spread.mean:.2f}{deviation}"
