# Requires make and Python 3.11 or newer. To use another Python in a separate environment:
#     make test PYTHON=python3.13 VENV=.venv-new

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
RUNS   ?= 200
TIMES  ?= 20

BIN := $(VENV)/bin

# The tests start hundreds of processes, which compile all modules again without the files of byte code.
unexport PYTHONDONTWRITEBYTECODE

QUICK := "not slow and not s3 and not cluster"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-all test-quick test-wheel fuzz chaos lint format bench matrix docs notebooks build schema hooks clean distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) ARGS=\"further arguments for pytest, the demo or the benchmarks\""

demo: $(VENV)/.installed-demo ## Run the demonstration, examples/demo.py
	$(BIN)/python examples/demo.py $(ARGS)

# The tests of one file run in one process, so that their shared cluster starts once. Many tests wait for other processes, so four
# processes keep two cores at work.
test: $(VENV)/.installed-test ## Run the tests and doctests, without the heaviest, and with a few cases of large tables
	$(BIN)/python -m pytest -n 4 --dist loadfile $(ARGS)

test-all: $(VENV)/.installed-test ## Run all tests with all their cases, and twice as many random examples
	SHARDEDSTORE_FUZZ=2 $(BIN)/python -m pytest -n 3 --dist loadfile -o timeout=1200 $(ARGS)

test-quick: $(VENV)/.installed-test ## Run the unit tests that need no server and no cluster
	$(BIN)/python -m pytest -n 3 --dist loadfile -m $(QUICK) tests/unit shardedstore $(ARGS)

test-wheel: $(VENV)/.installed-test ## Build the wheel, install it, and use it
	$(BIN)/python -m pytest tests/integration/local/test_packaging.py $(ARGS)

fuzz: $(VENV)/.installed-test ## Try many more random examples in the unit tests: TIMES=20
	SHARDEDSTORE_FUZZ=$(TIMES) $(BIN)/python -m pytest -n 3 --dist loadfile -m $(QUICK) -o timeout=7200 tests/unit $(ARGS)

# RUNS is the number of killed processes. The number of other faults is proportional. Each run prints its seed, which repeats the run.
chaos: $(VENV)/.installed-test ## Kill, pause and starve jobs, and count the losses: RUNS=200
	PYTHONPATH=tests:. $(BIN)/python -m chaos --runs $(RUNS) $(ARGS)

lint: $(VENV)/.installed-dev ## Check style, format and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy --strict shardedstore

format: $(VENV)/.installed-dev ## Apply the fixes and the format of ruff
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: $(VENV)/.installed-bench ## Run all benchmarks in sequence
	@set -e; for file in benchmarks/bench_*.py; do \
		echo "$(BIN)/python -m benchmarks.$$(basename $$file .py) $(ARGS)"; \
		$(BIN)/python -m "benchmarks.$$(basename $$file .py)" $(ARGS); \
	done

matrix: $(VENV)/.installed-test ## Run the code of docs/read-from.md, and write its table; npm installs zarrita.js
	-npm install --silent --prefix build/npm zarrita @zarrita/storage
	NODE_MODULES=$(CURDIR)/build/npm/node_modules ICECHUNK_LOG=error PYTHONPATH=$(CURDIR)/tests:$(CURDIR) $(BIN)/python -m read_from

docs: $(VENV)/.installed-docs ## Build the documentation site into build/site, and check its links
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/site

notebooks: $(VENV)/.installed-test ## Run the notebooks of examples/notebooks, and keep their outputs
	$(BIN)/python examples/notebooks/run.py $(ARGS)

pictures: $(VENV)/.installed-test ## Make the pictures of the README, with headless Chromium
	PYTHONPATH=tests:. $(BIN)/python docs/pictures/make.py

build: $(VENV)/.installed-dev ## Build the sdist, and the wheel from it, into dist/
	$(BIN)/python -m build

schema: $(VENV)/.installed-test ## Write the JSON Schemas of the config, of job files and of logs from the code
	$(BIN)/python -m shardedstore.config.schema
	$(BIN)/python -m shardedstore.jobfiles.schema
	$(BIN)/python -m shardedstore.callbacks.log_events

hooks: $(VENV)/.installed-dev ## Install the git hooks of .pre-commit-config.yaml
	$(BIN)/python -m pre_commit install

clean: ## Remove builds, caches and the files of the demo
	rm -rf build dist demo .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name '.venv*' -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean ## Remove the virtual environments as well
	rm -rf .venv .venv-new

# The environment is created once. An extra (demo, test, docs, dev, bench) is installed on first use, and again after
# pyproject.toml has changed.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'shardedstore needs Python 3.11 or newer: make ... PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(BIN); exit 1; }
