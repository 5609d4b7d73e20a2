"""Roofline: how far a graph is from what the processor can do, and where its time goes.

    rates = measure_rates(threads=1)
    owners = input_owners(entry)
    bound = lower_bound(count_graph(content, axis_sizes({"a": 50}), owners), rates)
    shares = split_time(content, feed, owners, threads=1)

Counting and splitting read graphs with the package onnx; measuring needs a C compiler.
"""
