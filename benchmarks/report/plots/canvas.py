"""Elements of SVG, and how wide a text will be.

Lengths are CSS pixels: a plot is as wide as it will be shown, so that its text keeps its size.
Colours come from the style sheet by class, so that they follow the reader's theme.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Literal

TEXT = 12
"""Size of text."""
LINE = 16
"""Height of a line of text."""

Anchor = Literal["start", "middle", "end"]
Value = str | float | int

_NARROW, _WIDE = frozenset("ijlrtfI.,:;'|!()[]/ -"), frozenset("mwMW%@+=<>")
_NARROW_EMS, _WIDE_EMS, _CAPITAL_EMS, _EMS = 0.42, 0.98, 0.75, 0.64


@dataclass(frozen=True)
class Box:
    """A rectangle that text takes."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box, gap: float = 2.0) -> bool:
        """Whether the two overlap or come nearer than `gap`."""
        return (
            self.left < other.right + gap
            and other.left < self.right + gap
            and self.top < other.bottom + gap
            and other.top < self.bottom + gap
        )


@dataclass
class Canvas:
    """Collects elements of one plot."""

    width: float
    height: float = 0.0
    parts: list[str] = field(default_factory=list)

    def add(self, name: str, content: str | None = None, **attributes: Value) -> None:
        """An element; `_` in the name of an attribute stands for `-`, `kind` for `class`."""
        self.parts.append(element(name, content, **attributes))

    def text(
        self, x: float, baseline: float, text: str, anchor: Anchor = "start", kind: str = ""
    ) -> Box:
        """A line of text; returns where it lies."""
        self.add(
            "text", escape(text), x=x, y=baseline, text_anchor=anchor, kind=f"t {kind}".strip()
        )
        return text_box(x, baseline, text, anchor)

    def svg(self, label: str) -> str:
        """The whole plot. label: what it shows, for those who do not see it."""
        content = f"<title>{escape(label)}</title>" + "".join(self.parts)
        return element(
            "svg", content, viewBox=f"0 0 {_short(self.width)} {_short(self.height)}",
            width=self.width, height=self.height, role="img",
        )  # fmt: skip


def element(name: str, content: str | None = None, **attributes: Value) -> str:
    """An element of SVG with escaped attributes; content is taken as it is."""
    words = "".join(
        f' {_attribute(key)}="{escape(_short(value))}"' for key, value in attributes.items()
    )
    return f"<{name}{words}/>" if content is None else f"<{name}{words}>{content}</{name}>"


def text_width(text: str) -> float:
    """An upper estimate for the usual fonts of systems, of which DejaVu Sans is the widest."""
    return TEXT * sum(map(_ems, text))


def text_box(x: float, baseline: float, text: str, anchor: Anchor = "start") -> Box:
    """Where a line of text lies."""
    width = text_width(text)
    left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * width
    return Box(left, baseline - TEXT, left + width, baseline + 0.3 * TEXT)


def _ems(letter: str) -> float:
    if letter in _NARROW:
        return _NARROW_EMS
    if letter in _WIDE:
        return _WIDE_EMS
    return _CAPITAL_EMS if letter.isupper() else _EMS


def _attribute(key: str) -> str:
    return {"kind": "class", "viewBox": "viewBox"}.get(key, key.replace("_", "-"))


def _short(value: Value) -> str:
    """A number with at most two digits behind the point."""
    if isinstance(value, str):
        return value
    return f"{value:.2f}".rstrip("0").rstrip(".")
