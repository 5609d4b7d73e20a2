"""Scenarios: each module has functions from a `Bench` to rows of the record."""
