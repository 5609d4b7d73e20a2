"""Finds the Python module of TensorRT, or says why there is none and what to do."""

from __future__ import annotations

import importlib
from typing import Any

from ifmmin.runtime.errors import BackendUnavailable, InputError

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""The flavours and their modules: the one builds for the GPU it runs on, the other for any of the
desktop generations since Turing. Their API is the same, but for targets and timing caches."""

_CURES = {
    "tensorrt": (
        "on a Jetson, install JetPack's python3-libnvinfer with apt and make the environment with "
        "--system-site-packages; elsewhere run pip install tensorrt-cu12"
    ),
    "tensorrt-rtx": "run pip install 'ifmmin[rtx]'",
}
_OLDEST_MAJOR = {"tensorrt": 10, "tensorrt-rtx": 1}
"""Strongly typed networks came with 10; JetPack 6.0 still has 8.6."""


def load_tensorrt(flavour: str) -> Any:
    """The module of `tensorrt` or `tensorrt-rtx`.

    Raises BackendUnavailable, in one line, where it is absent, lacks a library or is too old, and
    InputError for another flavour.
    """
    if flavour not in MODULES:
        raise InputError(f"unknown flavour {flavour!r}; use {' or '.join(MODULES)}")
    name = MODULES[flavour]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise _broken(flavour, error) from error
        raise BackendUnavailable(
            f"the Python module {name} is not installed here; {_CURES[flavour]}"
        ) from error
    # A library that is not there is an ImportError on Linux and an OSError where ctypes loads it.
    except (ImportError, OSError) as error:
        raise _broken(flavour, error) from error
    _require_version(flavour, module)
    return module


def _broken(flavour: str, error: Exception) -> BackendUnavailable:
    reason = " ".join(str(error).split())
    return BackendUnavailable(
        f"the Python module {MODULES[flavour]} is installed but does not load ({reason}); "
        f"{_CURES[flavour]}"
    )


def _require_version(flavour: str, module: Any) -> None:
    version = str(getattr(module, "__version__", "0"))
    major = version.split(".")[0]
    oldest = _OLDEST_MAJOR[flavour]
    if not hasattr(module, "Builder") or not major.isdigit() or int(major) < oldest:
        raise BackendUnavailable(
            f"the Python module {MODULES[flavour]} has version {version}, at least {oldest} with a "
            f"builder was wanted; {_CURES[flavour]}"
        )
