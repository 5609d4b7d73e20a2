"""Sweeps: entries x folds x seeds, a unit each, resumable after any interruption.

run.py       a sweep from beginning to end
plan.py      what is asked: entries, folds, seeds
folder.py    the sweep's directory: lock, sweep.json, finished units
worker.py    a unit
executors.py who runs the units: a pool of processes (pool.py) or Ray (ray_cluster.py)
results.py   what finished units say; figures.py and paired.py make numbers of it
report.py    the files: Markdown (markdown.py), CSV, plots (plots.py)
"""
