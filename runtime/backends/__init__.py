"""What executes a graph. One small interface, one module per engine."""

from ifmmin.runtime.backends.base import Backend, Loaded, Runner
from ifmmin.runtime.backends.choose import BACKENDS, choose

__all__ = ["BACKENDS", "Backend", "Loaded", "Runner", "choose"]
