# Every target sets up what it needs in .venv by itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test lint format bench clean

help:            ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/made: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable . --group dev
	@touch $@

demo: .venv/made  ## a cloud-free picture from the embedded archive: no account, no network
	$(BIN)/bestpixel-gpu demo

.venv/cuda: .venv/made
	$(BIN)/pip install --quiet --group cuda || echo "without CUDA's wheels: the tests that need them skip"
	@touch $@

test: .venv/cuda  ## all tests
	$(BIN)/python -m pytest

lint: .venv/made  ## ruff and mypy --strict
	$(BIN)/ruff check bestpixel_gpu tests benchmarks
	$(BIN)/ruff format --check bestpixel_gpu tests benchmarks
	$(BIN)/mypy

format: .venv/made  ## put the code into the house's form
	$(BIN)/ruff check --fix bestpixel_gpu tests benchmarks
	$(BIN)/ruff format bestpixel_gpu tests benchmarks

.venv/bench: .venv/made
	$(BIN)/pip install --quiet --group bench
	@touch $@

bench: .venv/bench  ## the goals' table, ours and peers in turn; JSON into benchmarks/results
	$(BIN)/python benchmarks/peers.py

clean:           ## forget the environment and caches
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis
