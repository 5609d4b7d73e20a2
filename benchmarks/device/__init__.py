"""The device in every record: what it is, how warm and how throttled, and the energy it takes.

`record_device` looks once, `describe` puts that into words; `Watch` goes on looking while a
benchmark runs.
"""

from ifmmin.benchmarks.device.describe import describe
from ifmmin.benchmarks.device.energy import Energy
from ifmmin.benchmarks.device.info import record_device
from ifmmin.benchmarks.device.machine import DeviceRecord
from ifmmin.benchmarks.device.monitor import Watch, Watched

__all__ = ["DeviceRecord", "Energy", "Watch", "Watched", "describe", "record_device"]
