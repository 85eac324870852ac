# The project's commands. Start with `make demo`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := data/benchmarks/peers
CONSTRAINTS ?= constraints/cpu.txt
EXTRAS ?= dev
# A package index with the PyTorch build that you want; pip uses it in addition to its own.
TORCH_INDEX ?=
# Idle torch threads sleep instead of spinning, because other processes need the cores.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup lock lock-cuda demo demo-live run test rtsp-server test-latest lint format bench tiny evaluate clean

# Makes a virtual environment: $(call environment,folder,constraints). The build backend is pinned like everything else:
# it is installed first, and the project is built without isolation.
PIP_INSTALL = bin/pip install --quiet -c $(2) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
define environment
$(PYTHON) -m venv $(1)
$(1)/$(PIP_INSTALL) --upgrade setuptools
$(1)/$(PIP_INSTALL) --no-build-isolation -e '.[$(EXTRAS)]'
endef

FREEZE = data/lock/bin/pip freeze --all --exclude pip --exclude wheel --exclude longwatch
RESOLVED = on $$(date -u +%F) with $$($(PYTHON) -V) on $$(uname -sm)

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/installed  ## Make the virtual environment with all packages pinned (TORCH_INDEX=... for a PyTorch build)

$(VENV)/installed: pyproject.toml constraints/cpu.txt $(CONSTRAINTS)
	$(call environment,$(VENV),$(CONSTRAINTS))
	touch $@

lock:  ## Resolve all packages except PyTorch (constraints/torch.txt) again, and pin them in constraints/cpu.txt
	rm -rf data/lock
	$(call environment,data/lock,constraints/torch.txt)
	$(FREEZE) > data/lock/pins
	( echo "# Every package that make setup installs, as make lock resolved it $(RESOLVED)."; \
	  echo '# Do not edit: change pyproject.toml or constraints/torch.txt, and lock again.'; \
	  sed -E 's/^(torch==[^+]*)[+].*/\1/' data/lock/pins ) > constraints/cpu.txt

lock-cuda:  ## After `make lock`, if pip finds a CUDA build of PyTorch: pin the packages it adds in constraints/cuda.txt
	rm -rf data/lock
	$(call environment,data/lock,constraints/cpu.txt)
	data/lock/$(call PIP_INSTALL,,constraints/cpu.txt) bitsandbytes
	$(FREEZE) > data/lock/pins
	( echo "# What a CUDA build of PyTorch brings along, and bitsandbytes, as make lock-cuda resolved it $(RESOLVED)."; \
	  echo '-c cpu.txt'; \
	  grep -vxFf constraints/cpu.txt data/lock/pins | grep -v '^torch==' ) > constraints/cuda.txt

demo: setup  ## Run the main job from end to end on this machine; KEEP=1 leaves the service running
	$(BIN)/python -m demo $(if $(KEEP),--keep)

demo-live: setup  ## Two live cameras, standing questions, events as they come, and a question about the past
	$(BIN)/python -m demo.live

run: setup  ## Run the whole service in the foreground: Redis, API, workers
	$(BIN)/longwatch up

# Two processes, because tests spend half of their time waiting for processes that they started.
PYTEST = python -m pytest --numprocesses 2 --dist loadfile

test: setup  ## Run all tests
	$(BIN)/$(PYTEST)

# A few tests use Debian's RTSP server too. They are skipped where it is missing.
RTSP_SERVER = apt-get install --no-install-recommends gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base \
  gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-rtsp python3-gi

rtsp-server:  ## Install Debian's RTSP server for the tests (as root; otherwise print the command)
	@if [ "$$(id -u)" = 0 ]; then $(RTSP_SERVER) --yes; else echo 'As root: $(RTSP_SERVER)'; fi

test-latest:  ## Run all tests without the pins, to find releases that will break Longwatch at the next `make lock`
	rm -rf data/latest
	$(call environment,data/latest,constraints/torch.txt)
	data/latest/bin/$(PYTEST) --ignore tests/install/test_pins.py

lint: setup  ## Check format, style, types and layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## Format the code and fix its style
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: setup $(PEERS)/installed  ## Run all benchmarks (an hour, idle machine): tables here, JSON in benchmarks/results/
	$(BIN)/python -m benchmarks.plan
	$(BIN)/python -m benchmarks.encoding
	$(BIN)/python -m benchmarks.sampling
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.cameras
	$(BIN)/python -m benchmarks.live
	$(BIN)/python -m benchmarks.watches

$(PEERS)/installed: benchmarks/requirements-peers.txt $(CONSTRAINTS)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/$(call PIP_INSTALL,,$(CONSTRAINTS)) -r $<
	touch $@

tiny: setup  ## Train the shipped checkpoint from scratch (35 minutes on two cores; resumable)
	$(BIN)/python -m training.train --out checkpoints/tiny

evaluate: setup  ## Measure the shipped checkpoint's accuracy through the service's own path
	$(BIN)/python -m training.evaluate

clean:  ## Remove the environment and everything that the demo and the tests made
	rm -rf $(VENV) data build *.egg-info .mypy_cache .ruff_cache .pytest_cache
