# Two commands for a newcomer: `make quickstart` and `make test`. They need python3 (3.11 or newer) and make.
PYTHON ?= python3
BIN := .venv/bin
UV := $(shell command -v uv 2>/dev/null)

ifdef UV
  create = $(UV) venv --quiet --clear --python $(PYTHON) .venv
  install = $(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable
  install-beside = $(UV) pip install --quiet --python $(BIN)/python --no-deps
else
  create = $(PYTHON) -m venv --clear .venv
  install = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
  install-beside = $(BIN)/python -m pip install --quiet --no-deps
endif

.PHONY: help quickstart test check lint types layers lowest browser docs clean

help:
	@echo "make quickstart  install, train CARP on the embedded digits and score it (at most 5 minutes)"
	@echo "make test        install what the tests need and run them"
	@echo "make check       what CI runs: format, lint, types, layers, tests"
	@echo "make docs        build the documentation site in site/"
	@echo "make browser     install Chromium, in which the tests of pages run (they are skipped without)"
	@echo "make lowest      run the quick tests on the lowest versions allowed of what is cheap to install"

quickstart: .venv/installed
	$(BIN)/carp quickstart

test: .venv/installed-dev
	$(BIN)/python -m pytest --numprocesses auto

check: lint types layers test

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/installed-dev
	$(BIN)/pyright

layers: .venv/installed-dev
	$(BIN)/lint-imports

# The lower bounds lie in a folder that is looked into before .venv, so nothing large is installed twice.
lowest: .venv/lowest
	PYTHONPATH=.venv/lowest $(BIN)/python -m pytest tests/test_errors.py tests/test_files.py tests/cards \
	  tests/checkpoints tests/commands

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Debian's package where we may install it, as in CI; else a browser of playwright's own.
browser: .venv/installed-dev
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	    apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	  $(BIN)/playwright install chromium

.venv/lowest: .venv/installed-dev constraints-lowest.txt
	@echo "Installing the lowest versions allowed of what is cheap ..."
	@rm -rf $@ && $(install-beside) --target $@ --requirement constraints-lowest.txt
	@touch $@

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "carp-eval needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try make PYTHON=python3.11"; exit 2; }
	@echo "Making .venv ..."
	@$(create)
	@touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	@echo "Installing carp-eval and what it needs (about 7 GB unpacked, most of it PyTorch's CUDA libraries) ..."
	@$(install) .
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "Installing the tests' tools ..."
	@$(install) '.[dev]'
	@touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache
