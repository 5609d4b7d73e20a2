"""Roofline: how far a graph is from what the processor can do, and where its time goes.

    rates = measure_rates(threads=1)
    owners = input_owners(entry)
    bound = lower_bound(count_graph(content, axis_sizes({"a": 50}), owners), rates)
    shares = split_time(content, feed, owners, threads=1)

Counting and splitting read graphs with the package onnx; measuring needs a C compiler.
"""

from .bound import Bound, lower_bound
from .count import HEAD, Count, Work, axis_sizes, count_graph, input_owners, load_onnx
from .probe import ProbeFailed, Rates, Reading, measure_rates
from .profile import OVERHEAD, split_time

__all__ = [
    "HEAD",
    "OVERHEAD",
    "Bound",
    "Count",
    "ProbeFailed",
    "Rates",
    "Reading",
    "Work",
    "axis_sizes",
    "count_graph",
    "input_owners",
    "load_onnx",
    "lower_bound",
    "measure_rates",
    "split_time",
]
