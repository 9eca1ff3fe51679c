# `make demo` and `make test` need python3 (>= 3.10) with pip and venv, nothing else.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet -c constraints.txt
# Two test processes with one thread each do not fight over two cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test lint docs bench bench-base-to-new clean

demo: .venv/installed
	$(BIN)/anprompt demo

test: lint
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --cov=anprompt --cov-report=term --cov-fail-under=85

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documents and a reference made of docstrings, into site/; a broken link fails.
docs: .venv/installed-dev
	$(BIN)/python -m mkdocs build --strict

# Speed against the plain reference step, a short form; `python benchmarks/speed.py` runs all of it.
bench: .venv/installed
	$(BIN)/python benchmarks/speed.py --sections step,text,eval,floor --classes 50 --text-classes 10,50,200 --repeats 2

bench-base-to-new: .venv/installed
	$(BIN)/anprompt bench base-to-new --data embedded --methods zeroshot,anprompt --seeds 1,2,3 --shots 16 --runs runs/

# Torch comes first and alone, so that its pinned version is settled before anything depends on it.
.venv/torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	touch $@

.venv/installed: .venv/torch pyproject.toml
	$(PIP) -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf .venv demo-report build dist .coverage .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
