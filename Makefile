# Everything sets itself up: a virtual environment in .venv, from PyPI, with versions held by constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What the demo needs is little, so it is there sooner than what development needs.
SMALL := $(VENV)/.ready-demo
READY := $(VENV)/.ready
EXTRAS := operator,extractor,demo,dev
# uv installs no bytecode, and pods of tests are processes of their own: where Python were told to write none, each of them
# would compile all that it imports, which takes longer than most of their work.
unexport PYTHONDONTWRITEBYTECODE
# $(call install,EXTRAS): uv needs a tenth of pip's time. Where there is no uv for this machine, or none that finds the
# packages (an index that only pip is configured for), pip installs them.
COMMA := ,
PIP := $(BIN)/pip --quiet --disable-pip-version-check
define install
@$(BIN)/uv pip install --python $(BIN)/python --quiet --constraint constraints.txt --editable '.[$(1)]' \
	|| $(PIP) install --constraint constraints.txt --editable '.[$(1)]'
endef

.PHONY: help demo test coverage chaos chaos-processes check check-style check-types check-imports
.PHONY: check-generated fix generate bench clean
help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort

# The library that reads COPY is compiled when the project is installed.
COMPILED := hatch_build.py $(wildcard extractor/extraction_worker/source/copy/*.[ch])

$(SMALL): pyproject.toml constraints.txt $(COMPILED)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed: make PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --constraint constraints.txt uv || echo "There is no uv; pip takes a minute longer."
	$(call install,extractor$(COMMA)demo)
	@touch $@

$(READY): $(SMALL)
	$(call install,$(EXTRAS))
	@touch $@

demo: $(SMALL)  ## Extract a million rows from an embedded PostgreSQL and query the files
	$(BIN)/extraction demo

# In the order of the folders: xdist would begin files of few tests last, and some of the slowest are among them.
PYTEST := tests/in-memory $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
test: $(READY)  ## Run the tests
	$(PYTEST) $(PYTEST_ARGS)

coverage: $(READY)  ## Run the tests with branch coverage, which takes a third longer
	$(BIN)/coverage erase
	$(PYTEST) --cov --cov-report=term $(PYTEST_ARGS)

# EXTRACTION_CHAOS_SEED chooses the first seed. The cluster's half is in e2e/e2e.mk.
chaos: chaos-processes chaos-cluster  ## Kill, stop and cut off all that jobs need, over 200 times; see build/chaos

chaos-processes: $(READY)
	EXTRACTION_CHAOS=$${EXTRACTION_CHAOS:-50} $(BIN)/pytest tests/worker/pod/test_chaos.py

check: check-style check-types check-imports check-generated  ## Lint, types, import rules, generated files; side by side with -j

check-style: $(READY)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .

check-types: $(READY)
	$(BIN)/mypy

check-imports: $(READY)
	$(BIN)/lint-imports

check-generated: $(READY)
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
	$(call install,$(EXTRAS)$(COMMA)bench)
	$(BIN)/python -m bench.compare

clean:  ## Remove what was built
	rm -rf build dist $(VENV)

-include e2e/e2e.mk
