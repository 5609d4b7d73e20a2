"""Load scenarios of MLPerf Inference: single stream, multi stream, offline, server.

MLPerf's own LoadGen makes the load where it is installed, else ours does, by the same rules; every
result says which.
"""

from .base import (
    FULL,
    SCENARIOS,
    SHORT,
    AnswerCheck,
    CallSystem,
    Length,
    PredictorSystem,
    Result,
    Scenario,
    Settings,
    System,
)
from .measure import measure_scenario

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
