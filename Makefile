# The project's own commands. Each makes the virtual environment that it needs, from the lock files with their hashes;
# a machine needs no more than Python 3.11 or newer with venv, and make.
#
#   make demo     see the service at work: store, simulator, API, workers
#   make test     the test suite, on every core
#   make chaos    processes killed, Redis restarted, providers in trouble, each under 100,000 deliveries
#   make lint     style, types and layers
#   make bench    the speed of the parts; BENCH_FLAGS='--quick', '--only PART ..' or '--list'
#   make bench-peers   the same beside other services and clients, where they are on this machine
#   make lock     remake the lock files from pyproject.toml
#   make clean    remove what these commands made

# The first of these that is new enough; `make PYTHON=...` overrules.
PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		&& { echo "$$candidate"; break; }; done)

DEMO := .venv-demo
DEV := .venv-dev
LOCK := .venv-lock
PIP_FLAGS := --quiet --disable-pip-version-check
UV := uv==0.13.9
UV_FLAGS := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"

DEMO_FLAGS ?= --once
# A test that hangs is ended after 10 minutes, with the stacks of its threads, so that the run itself still reports.
# One worker more than there are cores: many tests wait for processes of their own. One that has none left takes over
# what waits at another: the long ones stand together.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() + 1)')
PYTEST_FLAGS ?= -n $(WORKERS) --dist worksteal -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true
BENCH_FLAGS ?=
CHAOS_DELIVERIES ?= 100000

.DEFAULT_GOAL := help
.PHONY: help demo test chaos lint bench bench-peers lock clean python

help:
	@sed -n 's/^#   make/  make/p' Makefile

demo: $(DEMO)/.made
	$(DEMO)/bin/pushsvc demo $(DEMO_FLAGS)

# The processes that tests start find their modules compiled, whatever the environment says: each costs a third less.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(DEV)/.made
	$(DEV)/bin/python -m pytest $(PYTEST_FLAGS)

chaos: $(DEV)/.made
	PUSHSVC_CHAOS_DELIVERIES=$(CHAOS_DELIVERIES) $(DEV)/bin/python -m pytest tests/chaos -m chaos -n 0 -s

lint: $(DEV)/.made
	$(DEV)/bin/ruff check
	$(DEV)/bin/ruff format --check
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports

bench: $(DEV)/.made
	$(DEV)/bin/python -m tests.bench $(BENCH_FLAGS)

bench-peers: $(DEV)/.made
	$(DEV)/bin/python -m tests.bench --only peers $(BENCH_FLAGS)

# A lock has flit_core too, so that building the package itself downloads nothing that the lock does not name.
lock: $(LOCK)/.made
	echo 'flit_core>=3.12' | $(LOCK)/bin/uv pip compile $(UV_FLAGS) --upgrade \
		pyproject.toml - --extra embedded --output-file requirements.txt
	echo 'flit_core>=3.12' | $(LOCK)/bin/uv pip compile $(UV_FLAGS) --upgrade --constraint requirements.txt \
		pyproject.toml - --extra dev --extra bench --output-file requirements-dev.txt

$(DEMO)/.made: requirements.txt pyproject.toml | python
	$(call make_environment,$(DEMO),requirements.txt)

$(DEV)/.made: requirements-dev.txt pyproject.toml | python
	$(call make_environment,$(DEV),requirements-dev.txt)

$(LOCK)/.made: Makefile | python
	rm -rf $(LOCK)
	$(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/python -m pip install $(PIP_FLAGS) $(UV)
	touch $@

# It is made from nothing rather than brought up to date, so that nothing of an older lock stays behind.
define make_environment
	@echo "making $(1) from $(2): this takes a minute or two, once"
	rm -rf $(1)
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install $(PIP_FLAGS) --require-hashes -r $(2)
	$(1)/bin/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation -e .
	touch $(1)/.made
endef

python:
	@test -n "$(PYTHON)" || { echo "pushsvc needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv;" \
		"or name one: make PYTHON=/path/to/python3.12)" >&2; exit 1; }

clean:
	rm -rf $(DEMO) $(DEV) $(LOCK) pushsvc.egg-info build dist .hypothesis .mypy_cache .ruff_cache \
		.import_linter_cache .pytest_cache
	find pushsvc tests -name __pycache__ -type d -prune -exec rm -rf {} +
