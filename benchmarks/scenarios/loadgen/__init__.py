"""Load scenarios of MLPerf Inference: single stream, multi stream, offline, server.

MLPerf's own LoadGen makes the load where it is installed, else ours does, by the same rules; every
result says which.
"""
