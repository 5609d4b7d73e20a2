# Every target works alone on a fresh machine: it makes .venv and installs what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench clean

# Trains on the synthetic corpus, exports all seven patterns, predicts and prints the table.
demo: $(VENV)/installed
	$(BIN)/python -m ifmmin.benchmarks.demo --out demo

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

# Timings are ratios within one run; close other work first.
bench: $(VENV)/installed
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-group-by=group

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# Tests use these where they can be had, and say so where not.
	-$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[rtx]'
	-$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/onnxruntime-oldest 'onnxruntime==1.20.*'
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
