"""What executes a graph. One small interface, one module per engine."""

from ifmmin.runtime.backends.base import Backend, Loaded, Runner
from ifmmin.runtime.backends.choose import BACKENDS, BackendOptions, make_backend

__all__ = ["BACKENDS", "Backend", "BackendOptions", "Loaded", "Runner", "make_backend"]
