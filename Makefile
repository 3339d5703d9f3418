# `make help` lists the targets. Each installs what it needs into .venv on first use.
PYTHON ?= python3
BIN := .venv/bin
TEST ?= tests
# Most tests wait for a service or a process, so more run at once than there are cores.
WORKERS ?= 4
# 1: trace the tests' own processes; all: also those that they start; empty: no tracing.
COVERAGE ?= 1
KAFKA ?=
DEEP ?=
MINUTES ?= 5
# 1: what the product runs on is a cluster of brokers, replicated PostgreSQL, secured services.
CLUSTER ?=
SERVICES ?= $(if $(CLUSTER),cluster replicated secured,postgresql)
SEED ?=
TARGET ?= webhook
RELAYS ?= 2
KILLS ?=
CONNECTIONS ?= 1000
SECONDS ?= 10
# An image to build on: unset, the one in deploy/Dockerfile; debian, one that is made from Debian's packages.
BASE ?=
HELM ?= v3.22.0

export PATH := $(CURDIR)/$(BIN):$(PATH)
# Tests and demos start hundreds of processes, which reuse compiled modules.
unexport PYTHONDONTWRITEBYTECODE

# System packages are installed only on request (INSTALL=1) or in CI, on Debian; otherwise they are named.
INSTALL ?= $(CI)
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo -n)
# $(call require,command,Debian packages,what is not tested without it)
require = command -v $(1) >/dev/null || { [ -n "$(INSTALL)" ] && command -v apt-get >/dev/null && \
	echo "installing $(2) with apt-get" && { $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
	apt-get install -y -qq -o Dpkg::Use-Pty=0 $(2); } >.venv/apt.log 2>&1; } || \
	echo "$(1) is missing: $(3) will not run. Install $(2) (apt-get, brew), or run make tools INSTALL=1 on Debian"

.PHONY: help install tools demo up test deploy-check image compose chart helm kubernetes alerts torture attack fuzz lint format docs docs-reference screenshots simulator services model bench lock release clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

install: .venv/installed ## create .venv with the package and its tools

.venv/installed: requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "the venv module is missing: apt-get install python3-venv"; exit 1; }
	@echo "installing into .venv, which takes a minute the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

tools: install ## check for system tools that tests need (INSTALL=1: install them)
	@$(call require,mvn,maven,tests that need Kafka or the registry)
	@$(call require,javac,default-jdk-headless,the consumer example in Java)
	@$(call require,cc,gcc libc6-dev,tests of a lost page cache)
	@PATH="$$PATH:/usr/sbin"; $(call require,pgbouncer,pgbouncer,tests behind a pooler)
	@command -v google-chrome >/dev/null || $(call require,chromium,chromium fonts-dejavu-core,tests of the console in a browser)
	@PATH="$$PATH:/usr/sbin"; $(call require,nginx,nginx-light,tests behind a proxy)
	@$(call require,npm,npm,the comparison of htmx and Pico.css with their packages)
	@$(call require,prometheus,prometheus,tests of the alerts)
	@$(call require,systemd-analyze,systemd,tests of the systemd units)

demo: install ## post interactions, kill the relay, and count what is in Kafka (KAFKA=real: use a real broker)
ifeq ($(KAFKA),real)
	@$(MAKE) --no-print-directory tools
	@$(BIN)/python -m testkit.services --kafka -- $(BIN)/relay demo
else
	@$(BIN)/relay demo
endif

up: install ## run web, relay and console until Ctrl-C, with a curl command to try (KAFKA=real: use a real broker)
ifeq ($(KAFKA),real)
	@$(MAKE) --no-print-directory tools
	@$(BIN)/python -m testkit.services --kafka -- $(BIN)/relay demo --stay
else
	@$(BIN)/relay demo --stay
endif

# The tests' brokers and registries run for seconds: optimising compilers and collectors cost more than they save.
test: export JDK_JAVA_OPTIONS := -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
test: lint tools ## run lint, types and all tests on real services (TEST=path, COVERAGE=)
	@code=0; $(if $(filter all,$(COVERAGE)),COVERAGE_PATCH=subprocess) \
	$(BIN)/python -m testkit.services -- $(BIN)/python -m pytest $(if $(COVERAGE),--cov --cov-report=) \
		-n $(WORKERS) --dist load --maxschedchunk 1 $(TEST) || code=$$?; \
	$(if $(COVERAGE),echo "coverage: $$($(BIN)/coverage report --format=total) % of the product's lines$(if \
		$(filter all,$(COVERAGE)),, in the tests' own processes)";) exit $$code

deploy-check: tools ## check what is in deploy/, which make test does too: units, proxies, Dockerfile, compose, chart
	@$(BIN)/python -m pytest -q -n 2 tests/deploy

image: install ## build the container image and run its processes (BASE=debian: without a registry of images)
	@$(call require,podman,podman buildah runc,the image)
	@$(if $(filter debian,$(BASE)),$(call require,mmdebstrap,mmdebstrap,the image))
	@$(BIN)/python -m testkit.services -- $(BIN)/python -m tests.deploy.image $(if $(BASE),--base $(BASE))

compose: install ## run the product's part of deploy/compose.yaml, with the image that make image has built
	@$(call require,podman,podman buildah runc,the compose file)
	@$(BIN)/python -m testkit.services -- $(BIN)/python -m tests.deploy.compose

chart: helm ## lint the Helm chart, render it for the tests, and validate the result (builds helm with Go if need be)
	@$(BIN)/python -m tests.deploy.chart
	@$(BIN)/python -m pytest -q tests/deploy/test_chart.py

helm: install
	@command -v helm >/dev/null || { echo "building helm $(HELM), which takes minutes" && \
	GOBIN=$(CURDIR)/$(BIN) go install helm.sh/helm/v3/cmd/helm@$(HELM); }

kubernetes: helm ## install the chart on a real API server, without nodes (builds it with Go if need be)
	@command -v kube-apiserver >/dev/null || { echo "building kube-apiserver, which takes minutes" && \
	cd tests/deploy/apiserver && go build -o $(CURDIR)/$(BIN)/kube-apiserver \
	-ldflags "-X k8s.io/component-base/version.gitVersion=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes)" .; }
	@$(BIN)/python -m tests.deploy.kubernetes

alerts: tools ## bring incidents about, and see the alerts fire and clear in a real Prometheus (docs/alerts.md)
	@$(BIN)/python -m tests.deploy.alerts

torture: tools ## inject faults under load, then count rows (MINUTES=5 SEED=7 SERVICES=sqlite; CLUSTER=1; KILLS=1000)
	@$(BIN)/python -m $(if $(KILLS),tests.faults.kills --kills $(KILLS),tests.faults.torture --minutes $(MINUTES) \
		--relays $(RELAYS)) --services $(SERVICES) $(if $(SEED),--seed $(SEED))

attack: install ## attack web and relay on this machine (CONNECTIONS=1000 SECONDS=10)
	@$(BIN)/python -m tests.attack --connections $(CONNECTIONS) --seconds $(SECONDS)

fuzz: install ## fuzz what arrives from others (TARGET=webhook MINUTES=10 SEED=7); TARGET: see docs/fuzzing.md
	@$(BIN)/python -m $(if $(filter parsers,$(TARGET)),tests.fuzz.coverage,tests.fuzz --target $(TARGET)) --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

lint: install ## check format, style, types, spelling and import rules
	@echo "checking format, style, types, spelling and import rules"
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/codespell
	@$(BIN)/lint-imports --no-logo > .venv/imports.log || { cat .venv/imports.log; exit 1; }

format: install ## format the code
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --quiet --fix .

docs: export NO_MKDOCS_2_WARNING := 1
docs: install ## build the documentation as a site into site/, and check its links
	@$(call require,npm,npm,the diagrams of the site)
	@$(BIN)/python -m mkdocs build && echo "open site/index.html"

docs-reference: install ## write the parts of docs/ that follow from the code
	@$(BIN)/python -m testkit.documentation

screenshots: tools ## take the pictures of the console in docs/images
	@$(BIN)/python -m testkit.screenshots

simulator: install ## simulate CXone and a scoring endpoint until Ctrl-C
	@$(BIN)/python -m testkit.simulator

services: tools ## run Kafka, registry and PostgreSQL until Ctrl-C
	@$(BIN)/python -m testkit.services

model: tools ## explore the delivery protocol and drive the real code (DEEP=1: larger, 1 GiB per process)
	$(BIN)/python -m tests.model $(if $(DEEP),--deep)
	MODEL_DEEP=1 $(BIN)/python -m pytest tests/model/test_broker_contract.py tests/model/test_state_machine.py

bench: tools ## measure the figures in docs/performance.md
	@$(BIN)/python -m bench

lock: install ## pin the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --upgrade --extra otel pyproject.toml --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --group dev --extra otel --constraint requirements.txt pyproject.toml --output-file requirements-dev.txt

release: helm ## build wheel, sdist, SBOM and chart of this commit into dist/, and the image, and check them (BASE=debian)
	@$(BIN)/python -m testkit.release
	@helm lint --strict dist/*.tgz
	@$(MAKE) --no-print-directory image

clean: ## remove installed and built files
	rm -rf .venv .services build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage
