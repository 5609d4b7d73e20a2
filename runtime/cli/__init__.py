"""Command `ifmmin-run`: options, readers, writers, streams of events."""
