"""The version of what is installed."""

from __future__ import annotations

import sys
from pathlib import Path

_MATTER = (
    "ifmmin-", "onnxruntime", "openvino-", "tensorrt", "cuda_python-", "cuda_bindings-", "numpy-",
)  # fmt: skip
"""Names of packages on which the speed of a graph depends."""


def package_version() -> str:
    """The installed version of ifmmin, or `unknown` when run from a plain tree."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, seldom wanted

    try:
        return version("ifmmin")
    except PackageNotFoundError:
        return "unknown"


def installed_versions() -> list[str]:
    """Names and versions of what could run graphs, by the folders of sys.path.

    importlib.metadata would take longer than a graph takes to load.
    """
    found = set()
    for folder in sys.path:
        try:
            names = [path.name for path in Path(folder or ".").iterdir()]
        except OSError:
            continue
        found |= {n for n in names if n.endswith(".dist-info") and n.startswith(_MATTER)}
    return sorted(found)
