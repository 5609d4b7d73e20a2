"""Sweeps: entries x folds x seeds, a unit each, resumable after any interruption.

run.py       a sweep from beginning to end
plan.py      what is asked, and the sweep's directory: lock, sweep.json, finished units
executors.py who runs the units: processes on this machine, or Ray
results.py   what finished units say: figures and paired differences
gains.py     what the first entry gains over each other, against varied fields
published.py what papers say of a corpus, beside a sweep's figures
report.py    the files: Markdown, CSV, plots
"""
