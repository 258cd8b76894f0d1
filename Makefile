# Two commands for a newcomer, each of which sets up all it needs: `make sweep` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN    := .venv/bin

.PHONY: sweep test slow certify lint clean
sweep: .venv/ready
	$(BIN)/sdlab sweep experiments/cfg_vs_steps.toml

# One worker a core, each with one thread: most tensors here are too small to share.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

slow: .venv/ready
	$(BIN)/python -m pytest -m slow

certify: .venv/ready
	$(BIN)/sdlab certify

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Made anew when the dependencies change; `ready` is written last, so an interrupted set-up is repeated.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("sdlab needs Python 3.11 or newer, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
