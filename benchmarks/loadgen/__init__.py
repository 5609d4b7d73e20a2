"""The scenarios of MLPerf Inference: single stream, multi stream, offline, server.

MLPerf's own LoadGen makes the load where it is installed, else ours does, by the same rules; every
result says which.
"""

from ifmmin.benchmarks.loadgen.base import AnswerCheck, CallSystem, PredictorSystem, Result, System
from ifmmin.benchmarks.loadgen.measure import measure_scenario
from ifmmin.benchmarks.loadgen.settings import FULL, SCENARIOS, SHORT, Length, Scenario, Settings

__all__ = [
    "FULL",
    "SCENARIOS",
    "SHORT",
    "AnswerCheck",
    "CallSystem",
    "Length",
    "PredictorSystem",
    "Result",
    "Scenario",
    "Settings",
    "System",
    "measure_scenario",
]
