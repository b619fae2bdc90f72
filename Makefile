# Each target sets up what it needs, quietly and only if missing, in a cache outside the tree.
# CI calls these words and nothing else.

CACHE := $(or $(BAROGRAPH_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/barograph)
PYTHON ?= $(firstword $(wildcard /usr/bin/python3.11 /usr/bin/python3) python3)
UV_VERSION := 0.13.9
UV := $(CACHE)/uv-$(UV_VERSION)/bin/uv
# One environment per checkout, since the checkout is installed into it in place.
VENV := $(CACHE)/venv-$(shell printf '%s' '$(CURDIR)' | cksum | cut -d' ' -f1)
READY := $(VENV)/.ready-$(shell cat requirements-dev.lock pyproject.toml | cksum | cut -d' ' -f1)
BIN := $(VENV)/bin
BUILD := $(CACHE)/build-$(shell cat requirements-build.lock | cksum | cut -d' ' -f1)
BUILD_READY := $(BUILD)/.ready
export PATH := $(BIN):$(PATH)
export BAROGRAPH_CACHE := $(CACHE)
export VIRTUAL_ENV := $(VENV)
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long check fuzz bench format lock lab release audit

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## the Python environment, as the lock file says

$(UV):
	@echo "setting up uv $(UV_VERSION) in $(CACHE): it installs what the lock file names"
	@$(PYTHON) -m venv $(CACHE)/uv-$(UV_VERSION)
	@$(CACHE)/uv-$(UV_VERSION)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(READY): | $(UV)
	@echo "setting up the Python environment in $(VENV)"
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	@$(UV) pip sync --quiet --require-hashes requirements-dev.lock
	@$(UV) pip install --quiet --no-deps --editable .
	@rm -f $(VENV)/.ready-* && touch $@

# What builds the wheel and tells what is in it, apart from all else: the same tree gives the same bytes.
$(BUILD_READY): | $(UV)
	@echo "setting up what builds in $(BUILD)"
	@test -x $(BUILD)/bin/python || $(UV) venv --quiet --python $(PYTHON) $(BUILD)
	@$(UV) pip sync --quiet --require-hashes --python $(BUILD)/bin/python requirements-build.lock
	@touch $@

demo: setup ## real guests under real QEMUs, samples in an embedded Kafka, one minute; else simulated ones
	@python -m tests.lab.demo

check: setup ## seconds: format, lint, types, layers, contract, unit tests, golden tests
	@ruff format --check --quiet .
	@ruff check --quiet .
	@codespell
	@lint-imports --no-cache > $(CACHE)/lint-imports.log 2>&1 || { cat $(CACHE)/lint-imports.log; exit 1; }
	@basedpyright --level warning
	@python -m pytest -q --numprocesses 2 --dist worksteal tests/unit tests/model tests/contract tests/golden

lab: setup ## build what the tests run against: guest, libvirt, Kafka, Collector, Prometheus
	@python -m tests.lab.setup

test: lab ## everything: first what mostly waits, side by side, then what measures time, alone
	@python -m pytest -q -m "not long and not alone" --numprocesses 3 --dist loadfile
	@python -m pytest -q -m "alone and not long"

test-long: lab ## the long forms, whose figures go into closing notes
	@BAROGRAPH_HYPOTHESIS=long python -m pytest -q tests/model
	@python -m pytest -q -s -m long

fuzz: setup ## a million messages of hostile monitors against a running agent, five minutes
	@python -m pytest -q -s -m long tests/integration/test_hostile_input.py

bench: setup ## the figures: reads per sample, lag, CPU, a thousand VMs, libvirt's domains; what the spool costs and drains
	@python -m tests.lab.setup qemu guest kafka
	@python -m tests.lab.bench
	-@python -m tests.lab.bench_fleet
	-@python -m tests.lab.bench_libvirt
	-@python -m tests.lab.bench_kafka 200000
	-@python -m tests.lab.bench_spool 200000

release: setup $(BUILD_READY) ## everything of a release, from the commit checked out, into dist/
	@UV=$(UV) BUILD_PYTHON=$(BUILD)/bin/python python -m release $(PARTS)

audit: $(UV) ## look the locked packages up among known vulnerabilities
	@$(UV) tool run --quiet pip-audit@2.10.1 --strict --disable-pip --require-hashes -r requirements.lock

format: setup ## format and fix
	@ruff format . && ruff check --fix .

lock: $(UV) ## resolve the dependencies anew
	@$(UV) pip compile pyproject.toml --quiet --group dev --extra uvloop --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url --output-file requirements-dev.lock
	@$(UV) pip compile pyproject.toml --quiet --extra uvloop --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url --constraint requirements-dev.lock --output-file requirements.lock
	@$(UV) pip compile --quiet --group build --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url --constraint requirements-dev.lock --output-file requirements-build.lock
