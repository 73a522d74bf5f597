# make demo    explain real photographs with a real network in PyTorch and in Flax
# make docs    the page of methods, with its pictures
# make test    format, lint, types and tests, as CI runs them
# make check   the same without making the environment anew

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo docs test check format clean

demo: $(VENV)/.installed
	$(BIN)/python -m gradcam.zoo.demo --out demo-out

docs: $(VENV)/.installed
	$(BIN)/python -m gradcam.zoo.gallery --out docs

test: check

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	XLA_FLAGS=--xla_backend_optimization_level=0 $(BIN)/python -m pytest -n 2 --dist loadfile

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) demo-out out
