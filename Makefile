# Start with `make sweep` or `make test`. Each installs all it needs into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN    := .venv/bin

.PHONY: sweep test slow certify lint docs clean
sweep: .venv/ready
	$(BIN)/sdlab sweep experiments/cfg_vs_steps.toml

# One worker per core, one thread per worker: most tensors here are too small to share.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

slow: .venv/ready
	$(BIN)/python -m pytest -m slow

certify: .venv/ready
	$(BIN)/sdlab certify
	$(BIN)/sdlab certify guidance

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The parts of docs/ that are generated from the code.
docs: .venv/ready
	$(BIN)/python docs/make.py

# Repeated when the dependencies change. `ready` is written last, so an interrupted set-up starts again.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("sdlab needs Python 3.11 or newer, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
