"""Measures bundles: accuracy and latency per pattern, beside their peers, in one run."""
