# make train | make test | make check | make ui; each creates .venv if it is missing
# PYTHON: the first Python that Hydra and the pinned packages support
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13 python; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
PORT ?= 5000
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# the oldest torch that is supported, in a folder of its own ahead of the environment's torch; its CUDA libraries are the
# environment's, except for one that newer versions of torch do not need
OLDEST := $(VENV)/torch-2.11
OLDEST_PINS := constraints-torch-2.11.txt
# the tests of what runs a step, a loader, a clock, a probe or torch's profiler, and all others that import torch
TORCH_FOLDERS = $(wildcard $(addprefix tests/,attach cuda_double device diagnosis loaders meter parity probes runs trace training))
TORCH_TESTS = $(TORCH_FOLDERS) $(filter-out $(addsuffix /%,$(TORCH_FOLDERS)), \
  $(shell grep -rlE --include='test_*.py' '^ *(import|from) torch' tests))

.PHONY: help train test test-torch-2.11 check wheel ui server docs install clean

help: ## prints this list
	@grep -hE '^[a-z0-9.-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# without ARGS, no workers: this is PyTorch's default and starves most devices. The run ends by printing the command to try next
train: $(READY) ## one run: make train ARGS="loader=dali precision=bf16"; a sweep: ARGS="-m loader=native,dali"
	$(BIN)/python -m experiments.train $(or $(ARGS),loader.num_workers=0)

test: $(READY) ## the tests: make test ARGS="-k loaders"
	$(BIN)/python -m pytest $(ARGS)

test-torch-2.11: $(OLDEST)/.installed ## the tests that depend on torch, with the oldest version that is supported
	@PYTHONPATH=$(abspath $(OLDEST)) $(BIN)/python -c 'import torch; assert torch.__version__.startswith("2.11."), torch.__version__'
	PYTHONPATH=$(abspath $(OLDEST)) $(BIN)/python -m pytest $(TORCH_TESTS) $(ARGS)

check: $(READY) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(READY) ## dist/loaderlab-VERSION-py3-none-any.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

ui: $(READY) ## the MLflow UI with this project's store: make ui PORT=5001
	$(BIN)/python -m experiments.ui --port $(PORT)

server: $(READY) ## a tracking server for several machines: make server ARGS="--store postgresql://user:password@host/db --host 0.0.0.0"
	@$(BIN)/python -m experiments.server --port $(PORT) $(ARGS)

docs: $(READY) ## builds the documentation in site/; open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

install: $(READY) ## creates .venv with the pinned packages, and does nothing else

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: there is no Python 3.11, 3.12 or 3.13. Install one, or type: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "installing the pinned packages into $(VENV): about 7 GB and three minutes, only the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python tools/pip_progress.py --constraint constraints.txt --editable '.[suite,server,dali,spdl,slurm,docs,dev]'
	@touch $(READY)

$(OLDEST)/.installed: $(OLDEST_PINS) $(READY)
	@echo "installing torch 2.11 into $(OLDEST): about 1.3 GB, only the first time"
	@rm -rf $(OLDEST)
	@$(BIN)/python tools/pip_progress.py --no-deps --target $(OLDEST) --requirement $(OLDEST_PINS) \
	  || { echo "error: torch 2.11 was not installed, so its tests did not run"; exit 1; }
	@touch $@

clean: ## removes .venv and the caches of the tools
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
