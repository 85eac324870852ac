# The commands of the project. `make demo` is the one to begin with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := data/benchmarks/peers
CONSTRAINTS ?= constraints.txt
EXTRAS ?= dev
# Idle threads of torch sleep instead of spinning: on few cores the other processes need them.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup demo run test lint format bench tiny evaluate clean

help:  ## This list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/installed  ## Virtual environment with everything in it (a Redis server too, where none is installed)

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed -c $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	touch $@

demo: setup  ## The main job from end to end on this machine; KEEP=1 leaves the service up
	$(BIN)/python -m demo $(if $(KEEP),--keep)

run: setup  ## The whole service in the foreground: Redis, API, workers
	$(BIN)/longwatch up

test: setup  ## All tests
	$(BIN)/python -m pytest

lint: setup  ## Format, style, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## Put the code into shape
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: setup $(PEERS)/installed  ## All benchmarks (15 minutes, an idle machine): tables here, JSON in benchmarks/results/
	$(BIN)/python -m benchmarks.plan
	$(BIN)/python -m benchmarks.encoding
	$(BIN)/python -m benchmarks.sampling

$(PEERS)/installed: benchmarks/requirements-peers.txt $(CONSTRAINTS)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet -c $(CONSTRAINTS) -r $<
	touch $@

tiny: setup  ## Train the shipped checkpoint from nothing (35 minutes on two cores; resumable)
	$(BIN)/python -m training.train --out checkpoints/tiny

evaluate: setup  ## Accuracy of the shipped checkpoint through the service's own path
	$(BIN)/python -m training.evaluate

clean:  ## Remove the environment and everything the demo and the tests made
	rm -rf $(VENV) data build *.egg-info .mypy_cache .ruff_cache .pytest_cache
