# Everything sets itself up: a virtual environment in .venv, from PyPI, with versions held by constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What the demo needs is little, so it is there sooner than what development needs.
SMALL := $(VENV)/.ready-demo
READY := $(VENV)/.ready
EXTRAS := operator,extractor,demo,dev
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: help demo test chaos check fix generate bench clean
help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort

# The library that reads COPY is compiled when the project is installed.
COMPILED := hatch_build.py $(wildcard extractor/extraction_worker/source/copy/*.[ch])

$(SMALL): pyproject.toml constraints.txt $(COMPILED)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed: make PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) '.[extractor,demo]'
	@touch $@

$(READY): $(SMALL)
	@$(INSTALL) '.[$(EXTRAS)]'
	@touch $@

demo: $(SMALL)  ## Extract a million rows from an embedded PostgreSQL and query the files
	$(BIN)/extraction demo

test: $(READY)  ## Run the tests, with branch coverage
	$(BIN)/coverage erase
	$(BIN)/pytest -n 2 --dist loadfile --cov --cov-report=term $(PYTEST_ARGS)

# Each run has about two faults; EXTRACTION_CHAOS_SEED chooses the first.
chaos: $(READY)  ## Kill, stop and cut off pods, source and store in 150 runs; writes build/chaos.md
	EXTRACTION_CHAOS=$${EXTRACTION_CHAOS:-150} $(BIN)/pytest tests/worker/pod/test_chaos.py

check: $(READY)  ## Lint, types, import rules, generated files
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m extraction_contract.crd --check
	$(BIN)/python -m extraction_worker.report.exit_codes --check
	$(BIN)/python -m extraction_operator.observe.reference --check

fix: $(READY)  ## Format, and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: $(READY)  ## Write the generated files
	$(BIN)/python -m extraction_contract.crd
	$(BIN)/python -m extraction_worker.report.exit_codes
	$(BIN)/python -m extraction_operator.observe.reference

bench: $(READY)  ## Compare with peers
	@$(INSTALL) '.[$(EXTRAS),bench]'
	$(BIN)/python -m bench.compare

clean:  ## Remove what was built
	rm -rf build dist $(VENV)

-include e2e/e2e.mk
