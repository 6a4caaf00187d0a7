# Everything a developer or a curious user types; `make help` lists it.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
WORKERS ?= auto

.PHONY: help demo dev test test-engine test-faults test-mutations test-minio lint bench lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 20

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d; name another with make PYTHON=..." % v)'
	@echo "Installing into .venv, a minute or so the first time ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## a real database, backed up and restored, in half a minute
	@$(BIN)/backup-pipeline demo

dev: $(READY)  ## the same services with the Dagster UI on http://127.0.0.1:3000
	@$(BIN)/backup-pipeline dev

test: $(READY)  ## every test, against real servers that the tests start themselves
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadgroup

test-engine: $(READY)  ## the inner loop
	$(BIN)/pytest --numprocesses $(WORKERS) backup_pipeline_tests/engine

test-faults: $(READY)  ## every fault of docs/reliability.md, as often as it takes; ten minutes or more
	$(BIN)/python -m backup_pipeline_tests.faults -- --numprocesses $(WORKERS) --dist loadgroup

test-mutations: $(READY)  ## take out the guards one by one, and see that a test fails each time
	$(BIN)/python -m backup_pipeline_tests.faults.mutations

test-minio: $(READY)  ## what needs a store, against MinIO built from source (needs Go)
	scripts/test-minio

lint: $(READY)  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## benchmarks that compare in one run; ARGS="--help" tells what they take
	$(BIN)/python -m benchmarks $(ARGS)

lock: $(READY)  ## renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
	    --no-emit-index-url --no-annotate --no-header pyproject.toml --output-file requirements.lock

clean:  ## remove .venv and everything the demo made
	rm -rf .venv .backup-pipeline
