# kvnode: `make help` lists the targets.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
PYTEST := $(BIN)/python -m pytest
MINUTES ?= 2
SEEDS ?= 50
SCENARIO ?= all
JOBS ?= 2
# What only computes, in JOBS processes, quick ones first.
COMPUTING := $(wildcard tests/tidy tests/unit tests/scripts tests/fuzz tests/wire tests/sim)
# What measures how long others must wait: one after the other, so that nothing else bends it.
ALONE := $(wildcard tests/wire/test_attacks_*.py $(addprefix tests/integration/test_,stalls.py rolling_restart.py stopping.py nemesis.py))
# What waits for time-outs and computes next to nothing: many at once, but beside nothing that computes.
WAITING := $(wildcard tests/wire/test_keepalive_*.py tests/wire/test_backoff_*.py)
# Clusters of real processes, of installed ones too: they wait for each other half of the time, so that a few files at once keep
# two cores busy.
REAL := $(wildcard tests/nemesis tests/integration tests/packaging)
# Of these what goes through every part of a transport, once more on the one that is not the default.
ON_BOTH := $(addprefix tests/integration/,test_serve.py test_bad_input.py)
# Whole machines, with systemd: they need root and namespaces, and are skipped elsewhere.
MACHINES := $(wildcard tests/systemd)
# Where `make install` puts things, each below DESTDIR, and the interpreter that installed nodes run with.
DESTDIR ?=
appdir ?= /opt/kvnode
bindir ?= /usr/local/bin
unitdir ?= /usr/lib/systemd/system
sysusersdir ?= /usr/lib/sysusers.d
tmpfilesdir ?= /usr/lib/tmpfiles.d
examplesdir ?= /usr/share/kvnode/examples
SYSTEM_PYTHON ?= /usr/bin/python3
INSTALLER = "$(SYSTEM_PYTHON)" -B tools/install.py
DIRECTORIES := destdir appdir bindir unitdir sysusersdir tmpfilesdir examplesdir
destdir = $(DESTDIR)
WITHOUT = $(addprefix --ignore=,$(1))
# Tests start nodes and kvctl by the hundred: Python may keep what it compiled, whatever the caller's environment says.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run demo test check fmt lint type proto proto-check tidy unit unit-lowest packaging wheels install uninstall scripts fuzz fuzz-wire sim sim-replay sim-soak mutants nemesis integration systemd-test bench-wire prepare clean

help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with the server, the client, kvctl and the development tools; quick when nothing changed.

$(STAMP): pyproject.toml client/pyproject.toml
	@test -n "$(PYTHON)" || { echo "kvnode needs Python 3.11 or newer; none was found. Say PYTHON=/path/to/python3." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "kvnode needs Python 3.11 or newer; $(PYTHON) is older. Say PYTHON=/path/to/python3.11." >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "Python's venv module is missing: on Debian, apt-get install python3-venv." >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e "./client[cli]" -e ".[dev]"
	@touch $@

run: setup ## Run a one-node cluster in the foreground on 127.0.0.1:7401, for trying things out; data in build/local.
	$(BIN)/kvnode run --preset local --node.data_dir build/local

demo: setup ## Start three nodes, break things, and show what the cluster does about it; TRANSPORT=kvwire or grpcio.
	$(BIN)/kvctl demo $(if $(TRANSPORT),--transport $(TRANSPORT))

test: setup lint type ## Lint, type-check and run all tests.
	$(MAKE) --no-print-directory prepare
	$(PYTEST) -n $(JOBS) --dist worksteal $(COMPUTING) $(call WITHOUT,$(ALONE) $(WAITING))
	$(PYTEST) $(ALONE)
	$(PYTEST) -n 4 --dist worksteal $(WAITING)
	$(PYTEST) -n 3 --dist loadfile $(REAL) $(call WITHOUT,$(ALONE))
	KVNODE_TRANSPORT=other $(PYTEST) -n 2 --dist loadfile $(ON_BOTH)
	$(BIN)/python tools/lowest.py --quick
	$(PYTEST) -n 2 --dist loadfile $(MACHINES)

prepare: ## Make the two environments that tests need beside .venv: an installation, and the lowest versions of all dependencies.
	$(PYTHON) -m tests.packaging.stage
	$(PYTHON) tools/lowest.py --prepare

check: lint type proto-check tidy ## Everything that needs no running code: style, types, protos, house rules.

fmt: setup ## Format the code and sort its imports.
	$(BIN)/ruff check --quiet --fix-only .
	$(BIN)/ruff format .

lint: setup ## Look for mistakes and unformatted code.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup ## Check types, strictly.
	$(BIN)/mypy

proto: ## Regenerate client/kvapi from protos/.
	$(PYTHON) tools/proto.py generate

proto-check: ## Check that client/kvapi is what protos/ generates; lint protos/ and look for breaking changes.
	$(PYTHON) tools/proto.py check

tidy: setup ## Check the house rules: banned imports, sizes of modules, leftovers.
	$(PYTEST) -q tests/tidy

unit: setup ## Run the unit tests.
	$(PYTEST) -q tests/unit

unit-lowest: ## Run the unit tests, and a cluster, with the lowest versions of all dependencies that pyproject.toml allows.
	$(PYTHON) tools/lowest.py

packaging: setup prepare ## Test the wheels, `make install` and `make uninstall`.
	$(PYTEST) -q tests/packaging

scripts: setup ## Run the golden dialogues of the protocols.
	$(PYTEST) -q tests/scripts

fuzz: setup ## Feed arbitrary and damaged bytes to all that reads from outside, EXAMPLES (10) times as often, for a round or SECONDS (60).
	$(BIN)/python -m tests.fuzz.run --seconds $(or $(SECONDS),60) --factor $(or $(EXAMPLES),10)

fuzz-wire: setup ## Fuzz the transport guided by coverage (atheris, which is installed for it), each role for SECONDS (60).
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[fuzz]"
	$(BIN)/python -m tests.fuzz.atheris_wire server -max_total_time=$(or $(SECONDS),60)
	$(BIN)/python -m tests.fuzz.atheris_wire client -max_total_time=$(or $(SECONDS),60)

sim: setup ## Run SEEDS (50) fresh seeds of the deterministic simulator, in SCENARIO (all), on all cores.
	$(BIN)/python -m tests.sim.run --seeds $(SEEDS) --scenario $(SCENARIO)

sim-replay: setup ## Run a SEED of a SCENARIO again; WITHOUT="kill,pause" leaves faults out, TRACE=file keeps the whole trace.
	@test -n "$(SEED)" || { echo "Which one? make sim-replay SCENARIO=crashes SEED=1f2e3d.42, as a failure prints it." >&2; exit 1; }
	$(BIN)/python -m tests.sim.run --scenario $(SCENARIO) --seed $(SEED) --without "$(WITHOUT)" $(if $(TRACE),--trace $(TRACE))

sim-soak: setup ## Run as many fresh seeds as MINUTES (2) permit; failures do not end it.
	$(BIN)/python -m tests.sim.run --minutes $(MINUTES) --scenario $(SCENARIO) --keep-going --places

nemesis: setup ## Break real nodes for MINUTES (2) under load, and judge what clients saw; SEED=... repeats a run's choices.
	$(BIN)/python -m tests.nemesis.run --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

mutants: setup ## Put about a hundred known bugs into the product, or ONLY one, one at a time: the simulator must find 95 % of them.
	$(BIN)/python -m tests.sim.mutants $(if $(ONLY),--only $(ONLY))

integration: setup ## Run the tests with real processes and real disks; TRANSPORT=kvwire or grpcio carries gRPC in them.
	KVNODE_TRANSPORT=$(TRANSPORT) $(PYTEST) -q tests/integration

systemd-test: setup ## Run the tests of units on machines with a real systemd, made of namespaces; they need root.
	$(BIN)/python -m tests.packaging.stage
	$(PYTEST) -q $(MACHINES)

bench-wire: setup ## Measure kvwire beside grpcio, in five minutes; ARGS="--quick" takes one, "--million" looks for growth, too.
	$(BIN)/python benchmarks/wire.py $(ARGS)

wheels: setup ## Build the wheels of kvnode and kvnode-client into dist/.
	$(BIN)/python tools/wheels.py dist

install: ## Install kvnode in /opt/kvnode, its programs and systemd's files; below DESTDIR if given. Also an upgrade.
	@$(INSTALLER) install $(foreach name,$(DIRECTORIES),--$(name)="$($(name))")

uninstall: ## Remove what `make install` put there; never configuration and data.
	@$(INSTALLER) uninstall $(foreach name,$(DIRECTORIES),--$(name)="$($(name))")

clean: ## Remove everything that is built, .venv too.
	rm -rf $(VENV) .venv-proto .venv-lowest build client/build dist *.egg-info client/*.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find kvnode client tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
