"""Answers at every frame, whatever drops out: see docs/stream.md. Start at `stream.py`."""
