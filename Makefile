# One command each: `make` lists them. Set-up comes first and does nothing when it is already done.
# PYTHON runs the set-up and makes .venv; TWOCLOCKS_PYTHON names an interpreter to install into instead.
PYTHON ?= python3
PY = $(or $(TWOCLOCKS_PYTHON),.venv/bin/python)
# One worker a core, each with one thread; a file stays with one worker, so that what it trained is trained once.
PYTEST = OMP_NUM_THREADS=1 "$(PY)" -m pytest -n auto --dist loadfile

.PHONY: help setup demo check test test-all test-frameworks reproduce benchmark clean

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /make \1: /p' Makefile

setup:  ## make .venv and install all that the other commands need
	@"$(PYTHON)" scripts/bootstrap.py > /dev/null

demo: setup  ## train the main experiment, diagnose it, write its report
	"$(PY)" -m twoclocks run modular-addition --out runs/modular-addition

check: setup  ## lint, format, types, and which module may import which
	"$(PY)" -m ruff check
	"$(PY)" -m ruff format --check
	"$(PY)" -m mypy
	"$(PY)" -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

test: check  ## check, then the tests but for the slow ones
	$(PYTEST) -m 'not slow'

test-all: check  ## check, then all the tests but for the frameworks'
	$(PYTEST)

test-frameworks: check  ## the tests with the real lightning and transformers (pip install '.[lightning,hf]')
	$(PYTEST) -m frameworks tests/test_lightning.py tests/test_huggingface.py

reproduce: setup  ## measure the published claims and write docs/claims.md; takes hours, can be interrupted
	"$(PY)" -m twoclocks reproduce

benchmark: setup  ## our speed beside the alternatives, as ratios
	"$(PY)" -m benchmarks

clean:  ## remove all that these commands made, but for runs/
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(wildcard benchmarks docs scripts src tests) -name __pycache__ -type d -prune -exec rm -rf {} +
