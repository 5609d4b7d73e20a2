"""Device of every record: what it is, how warm and how throttled, and the energy it takes.

`record_device` looks once, `describe` puts that into words; `Watch` goes on looking while a
benchmark runs.
"""

from .describe import describe
from .energy import Energy
from .info import record_device
from .machine import DeviceRecord
from .monitor import Watch, Watched

__all__ = ["DeviceRecord", "Energy", "Watch", "Watched", "describe", "record_device"]
