# make train | make test | make check | make ui; each creates .venv if it is missing
# PYTHON: the first Python that Hydra and the pinned packages support
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13 python; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
PORT ?= 5000
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: help train test check wheel ui docs install clean

help: ## prints this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

# without ARGS, no workers: this is PyTorch's default and starves most devices. The run ends by printing the command to try next
train: $(READY) ## one run: make train ARGS="loader=dali precision=bf16"; a sweep: ARGS="-m loader=native,dali"
	$(BIN)/python -m experiments.train $(or $(ARGS),loader.num_workers=0)

test: $(READY) ## the tests: make test ARGS="-k loaders"
	$(BIN)/python -m pytest $(ARGS)

check: $(READY) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(READY) ## dist/loaderlab-VERSION-py3-none-any.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

ui: $(READY) ## the MLflow UI with this project's store: make ui PORT=5001
	$(BIN)/python -m experiments.ui --port $(PORT)

docs: $(READY) ## builds the documentation in site/; open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

install: $(READY) ## creates .venv with the pinned packages, and does nothing else

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: there is no Python 3.11, 3.12 or 3.13. Install one, or type: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "installing the pinned packages into $(VENV): about 7 GB and three minutes, only the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python tools/pip_progress.py --constraint constraints.txt --editable '.[suite,dali,spdl,docs,dev]'
	@touch $(READY)

clean: ## removes .venv and the caches of the tools
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
