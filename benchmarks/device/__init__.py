"""The device in every record: what it is, how warm and how throttled, and the energy it takes.

`record_device` looks once, `describe` puts that into words.
"""

from ifmmin.benchmarks.device.collect import record_device
from ifmmin.benchmarks.device.describe import describe
from ifmmin.benchmarks.device.facts import DeviceRecord

__all__ = ["DeviceRecord", "describe", "record_device"]
