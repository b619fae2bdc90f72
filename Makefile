# Each target sets up what it needs in a cache outside the tree, quietly and only if it is missing.
# CI calls these targets and nothing else.

CACHE := $(or $(BAROGRAPH_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/barograph)
PYTHON ?= $(firstword $(wildcard /usr/bin/python3.11 /usr/bin/python3) python3)
UV_VERSION := 0.13.9
UV := $(CACHE)/uv-$(UV_VERSION)/bin/uv
# One environment per checkout, because the checkout is installed into it in editable mode.
VENV := $(CACHE)/venv-$(shell printf '%s' '$(CURDIR)' | cksum | cut -d' ' -f1)
READY := $(VENV)/.ready-$(shell cat requirements-dev.lock pyproject.toml streams/pyproject.toml | cksum | cut -d' ' -f1)
BIN := $(VENV)/bin
BUILD := $(CACHE)/build-$(shell cat requirements-build.lock | cksum | cut -d' ' -f1)
BUILD_READY := $(BUILD)/.ready
export PATH := $(BIN):$(PATH)
export BAROGRAPH_CACHE := $(CACHE)
export VIRTUAL_ENV := $(VENV)
export PYTHONDONTWRITEBYTECODE :=
# pytest compiles each test file once and keeps the result. In a new checkout one process does that, since several
# that start at once would each compile all files. What is wrong with a file is reported by the run that follows.
compile-tests = @test -d $(firstword $(1))/__pycache__ || python -m pytest -q --collect-only $(1) > /dev/null 2>&1 || true
check-pytest := python -m pytest -q --hypothesis-profile quick -m "not long and not slow"

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-streams docs streams test test-long check check-commands check-contract check-core check-libvirt check-qmp check-sinks check-types check-words fuzz bench bench-streams format lock lab build-tools release release-commit release-rehearsal audit

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## set up the Python environment of the lock file

$(UV):
	@echo "setting up uv $(UV_VERSION) in $(CACHE), which installs the packages of the lock file"
	@$(PYTHON) -m venv $(CACHE)/uv-$(UV_VERSION)
	@$(CACHE)/uv-$(UV_VERSION)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(READY): | $(UV)
	@echo "setting up the Python environment in $(VENV)"
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	@$(UV) pip sync --quiet --require-hashes requirements-dev.lock
	@$(UV) pip install --quiet --no-deps --editable . --editable ./streams # without Flink, which only the lab has
	@rm -f $(VENV)/.ready-* && touch $@

# The tools that build the wheel and its SBOM, separate from all others, so that the same tree gives the same bytes.
$(BUILD_READY): | $(UV)
	@echo "setting up the build tools in $(BUILD)"
	@test -x $(BUILD)/bin/python || $(UV) venv --quiet --python $(PYTHON) $(BUILD)
	@$(UV) pip sync --quiet --require-hashes --python $(BUILD)/bin/python requirements-build.lock
	@touch $@

demo: setup ## show real guests in real QEMUs with an embedded Kafka for a minute, or simulated ones
	@python -m tests.lab.demo

demo-streams: setup ## show the stream jobs on a small fleet: pressure, a leak and a dark host, some minutes
	@python -m tests.lab.setup kafka flink
	@python -m tests.lab.demo_streams

streams: setup ## set up Flink for the stream jobs (800 MB), and print how to run them
	@python -m tests.lab.setup flink
	@python -m tests.lab.flink

docs: setup ## build the docs site into build/docs; a broken link or a page without navigation is an error
	@python -m sphinx --quiet --fail-on-warning --fresh-env --builder html --conf-dir docs/site \
	  --doctree-dir $(CACHE)/docs-$(notdir $(VENV)) . build/docs
	@echo "open build/docs/index.html"

check: setup ## what a change may break at once: format, lint, spelling, layers, types, all tests without a lab
	@ruff format --check --quiet .
	@ruff check --quiet .
	@$(MAKE) --no-print-directory --jobs 8 --output-sync=target \
	  check-qmp check-libvirt check-sinks check-core check-contract check-commands check-types check-words

check-words: setup # spelling and layers, a few seconds
	@codespell
	@lint-imports --no-cache > $(CACHE)/lint-imports.log 2>&1 || { cat $(CACHE)/lint-imports.log; exit 1; }

check-types: setup
	@pyrefly check --summary=none --output-format min-text

# Six processes, because tests wait for clocks and sockets. Each collects its own tests only: workers of pytest-xdist
# would each collect all, which takes as long as a third of the tests.
QMP := tests/unit/qmp
LIBVIRT := tests/unit/libvirt tests/unit/web
SINKS := tests/unit/sinks tests/unit/spool
CORE := $(filter-out $(QMP) $(LIBVIRT) $(SINKS) %/__pycache__,$(patsubst %/,%,$(wildcard tests/unit/*/)))

check-commands: setup
	@$(check-pytest) tests/unit/test_*.py

check-qmp: setup
	@$(check-pytest) $(QMP)

check-libvirt: setup
	@$(check-pytest) $(LIBVIRT)

check-sinks: setup
	@$(check-pytest) $(SINKS)

check-core: setup
	@$(check-pytest) $(CORE)

check-contract: setup
	@$(check-pytest) tests/contract tests/golden tests/model

lab: setup ## build what the tests need: guest, libvirt, Kafka, Flink, Collector, Prometheus
	@python -m tests.lab.setup
	@python -m tests.lab.qemu # boots the guests that most tests resume

test: lab ## run all tests: most in parallel, then those that measure time, in pairs and alone
	$(call compile-tests,tests/integration tests/unit tests/model tests/contract tests/golden)
	@python -m pytest -q -m "not long and not alone" --numprocesses 6 --dist loadfile --no-loadscope-reorder
	@python -m pytest -q -m "paired and not long" --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/integration
	@python -m pytest -q -m "alone and not paired and not long" tests/integration

test-long: lab ## run the long forms of the tests, and print their figures
	@python -m tests.lab.setup cgroup-host
	@BAROGRAPH_HYPOTHESIS=long python -m pytest -q tests/model
	@python -m pytest -q -s -m long

fuzz: setup ## send a million hostile monitor messages to a running agent, five minutes
	@python -m pytest -q -s -m long tests/integration/test_hostile_input.py

bench: setup ## measure readings per sample, lag, CPU and memory, with QEMU, libvirt, Kafka and the spool
	@python -m tests.lab.setup qemu guest kafka
	@python -m tests.lab.bench
	-@python -m tests.lab.bench_fleet
	-@python -m tests.lab.bench_libvirt
	-@python -m tests.lab.bench_kafka 200000
	-@python -m tests.lab.bench_spool 200000

bench-streams: setup ## measure records/s per core and state of the stream jobs, beside a bare copy on Flink
	@python -m tests.lab.setup kafka flink
	@python -m tests.lab.bench_streams

build-tools: $(BUILD_READY) # a target of its own, so that two processes do not set them up at the same time

release: setup $(BUILD_READY) ## build a release of the checked-out commit into dist/
	@UV=$(UV) BUILD_PYTHON=$(BUILD)/bin/python python -m release $(PARTS)

release-commit: setup ## turn the tree into the commit of the release VERSION
	@python -m tests.lab.setup helm
	@python -m release.prepare $(VERSION)

release-rehearsal: setup $(BUILD_READY) ## rehearse a release in a clone: tag, build twice, verify, install
	@python -m tests.lab.setup helm
	@UV=$(UV) VERSION=$(VERSION) python -m release.rehearsal $(PARTS)

audit: $(UV) ## check the locked packages for known vulnerabilities
	@$(UV) tool run --quiet pip-audit@2.10.1 --strict --disable-pip --require-hashes -r requirements.lock

format: setup ## format and fix the code
	@ruff format . && ruff check --fix .

lock: $(UV) ## resolve the dependencies again
	@$(UV) pip compile pyproject.toml --quiet --group dev --extra uvloop --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url --output-file requirements-dev.lock
	@$(UV) pip compile pyproject.toml --quiet --extra uvloop --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url --constraint requirements-dev.lock --output-file requirements.lock
	@$(UV) pip compile streams/pyproject.toml --quiet --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url --output-file streams/requirements.lock
	@$(UV) pip compile --quiet --group build --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url --constraint requirements-dev.lock --output-file requirements-build.lock
