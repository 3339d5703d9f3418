# The one door: `make help` lists what there is. Everything installs itself into .venv at first use.
PYTHON ?= python3
BIN := .venv/bin
TEST ?= tests
# Most tests wait for a service or a process, so more run at once than there are cores.
WORKERS ?= 4
KAFKA ?=
DEEP ?=
MINUTES ?= 5
DATABASE ?= postgresql
SEED ?=
RELAYS ?= 2
CONNECTIONS ?= 1000
SECONDS ?= 10

export PATH := $(CURDIR)/$(BIN):$(PATH)
# Tests and demos start hundreds of processes: none is to compile anew what the one before it has compiled.
unexport PYTHONDONTWRITEBYTECODE

# $(call bring,command,Debian packages,what is not tested without it)
bring = command -v $(1) >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	echo "installing $(2) with apt-get" && { apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Dpkg::Use-Pty=0 $(2); } >.venv/apt.log 2>&1; } || \
	echo "$(1) is missing, so $(3) will be named as not run: install $(2) (apt-get, brew)"

.PHONY: help install tools demo up test torture attack lint format docs-configuration simulator services model bench lock clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

install: .venv/installed ## .venv with the package and its tools

.venv/installed: requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "the venv module is missing: apt-get install python3-venv"; exit 1; }
	@echo "installing into .venv, which takes a minute the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

tools: install
	@$(call bring,mvn,maven,tests that need Kafka or the registry)
	@$(call bring,cc,gcc libc6-dev,tests of a lost page cache)
	@PATH="$$PATH:/usr/sbin"; $(call bring,pgbouncer,pgbouncer,tests behind a pooler)

demo: install ## see interactions travel from HTTP to Kafka (KAFKA=real: with a real broker)
ifeq ($(KAFKA),real)
	@$(MAKE) --no-print-directory tools
	@$(BIN)/python -m testkit.services --kafka -- $(BIN)/relay demo
else
	@$(BIN)/relay demo
endif

up: install ## the same, but stay up, with a curl line to try
	@$(BIN)/relay demo --stay

# Brokers and registries of tests live for seconds: optimising compilers and collectors cost more than they save.
test: export JDK_JAVA_OPTIONS := -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
test: lint tools ## lint, types and every test, on real services (TEST=path for some)
	@$(BIN)/python -m testkit.services -- $(BIN)/python -m pytest -n $(WORKERS) --dist load --maxschedchunk 1 $(TEST)

torture: tools ## faults under load, then the count (MINUTES=5 SEED=7 DATABASE=postgresql or sqlite, RELAYS=2)
	@$(BIN)/python -m tests.faults.torture --minutes $(MINUTES) --database $(DATABASE) --relays $(RELAYS) $(if $(SEED),--seed $(SEED))

attack: install ## hostile clients against web and relay on this machine, and a table (CONNECTIONS=1000 SECONDS=10)
	@$(BIN)/python -m tests.attack --connections $(CONNECTIONS) --seconds $(SECONDS)

lint: install ## ruff, mypy, spelling, import rules
	@echo "checking format, style, types, spelling and import rules"
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/codespell
	@$(BIN)/lint-imports --no-logo > .venv/imports.log || { cat .venv/imports.log; exit 1; }

format: install ## put the code in its format
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --quiet --fix .

docs-configuration: install ## write the tables of docs/configuration.md from the settings classes
	@$(BIN)/python -m testkit.settings_reference

simulator: install ## CXone and a scoring container on this machine, well or badly behaved, until Ctrl-C
	@$(BIN)/python -m testkit.simulator

services: tools ## real Kafka, registry and PostgreSQL on this machine, until Ctrl-C
	@$(BIN)/python -m testkit.services

model: tools ## explore the delivery protocol, and drive the real code through more of it (DEEP=1: larger, 1 GiB a process)
	$(BIN)/python -m tests.model $(if $(DEEP),--deep)
	MODEL_DEEP=1 $(BIN)/python -m pytest tests/model/test_broker_contract.py tests/model/test_state_machine.py

bench: tools ## what the numbers in the README come from
	@$(BIN)/python -m bench

lock: install ## pin the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --upgrade pyproject.toml --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --group dev --constraint requirements.txt pyproject.toml --output-file requirements-dev.txt

clean: ## remove what was installed and built here
	rm -rf .venv .services build *.egg-info .mypy_cache .ruff_cache .pytest_cache
