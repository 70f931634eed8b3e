# Needs Python 3.11 or newer, make and git; everything else goes into .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help demo test slow check prior

help:
	@echo 'make demo    install, then teach the built-in prior to turn line drawings into pictures (runs/demo/report.html)'
	@echo 'make test    install, then run the tests'
	@echo 'make slow    install, then run the tests that take long'
	@echo 'make prior   install, then train the built-in prior on, in the background of other work, until it is stopped'
	@echo 'make check   install, then formatting, lint, types and layers'

demo: $(STAMP)
	$(BIN)/limner demo

test: $(STAMP)
	$(BIN)/pytest --numprocesses auto --maxprocesses 4

slow: $(STAMP)
	$(BIN)/pytest -m slow

prior: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[recipes]'
	$(BIN)/python recipes/mini/recipe.py --vae src/limner/assets/mini/vae

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_layers.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
