"""Whether a graph is one file; nothing but bytes is read, so that neither onnx nor torch is needed.

Weights beside it could be exchanged, and the hash of the graph would not tell.
"""

from __future__ import annotations

from collections.abc import Iterator

from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.check import Check
from ifmmin.runtime.errors import BundleError

_LOCATION = b"\x0a\x08location"
"""How a tensor begins to say where its values lie, at whatever depth: in ONNX, key `location`."""


def points_outside(content: bytes) -> bool:
    """Whether a tensor of a serialised ONNX graph, or of a loop in it, lies in another file."""
    return _LOCATION in content


def check_single_files(bundle: Bundle) -> Iterator[Check]:
    """One check per graph whose hash is right; what else is wrong with a file others say."""
    for entry in bundle.manifest.graphs:
        try:
            outside = points_outside(bundle.graph(entry))
        except BundleError:
            continue
        detail = "weights lie in another file, wanted all in this one" if outside else "weights too"
        yield Check(entry.file, "one file", not outside, detail)
