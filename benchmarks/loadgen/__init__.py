"""The scenarios of MLPerf Inference: single stream, multi stream, offline, server."""
