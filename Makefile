# The one door to every developer action. Needs Python 3.11 or newer and a package index; sets up the rest.

VENV   := .venv
PY     := $(VENV)/bin/python
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c '$(USABLE)' 2>/dev/null && { echo $$p; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-all check bench docs clean
.DELETE_ON_ERROR:
# Kept although only pattern rules name them.
.PRECIOUS: $(VENV)/.has-%

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.has-cli ## Kill a workflow of 103 tasks in the middle, resume it, count what ran, run it again from the cache
	$(PY) -m eventflow demo

test: $(VENV)/.has-test ## Run all tests
	$(PY) -m pytest tests

test-fast: $(VENV)/.has-test ## Run the tests without whole processes and random crashes, in some 60 seconds
	$(PY) -m pytest -m 'not slow' --hypothesis-profile=quick --ignore=tests/e2e tests

test-all: test ## Run all tests, then the properties again with ten times as many examples
	$(PY) -m pytest --hypothesis-profile=thorough --timeout=600 tests/properties

check: $(VENV)/.has-dev ## Check format, style, types and layers
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)/.has-test ## Measure eventflow beside its floors, some five minutes
	$(PY) -m benchmarks.run $(BENCH)

docs: $(VENV)/.has-dev ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --clean

clean: ## Remove everything that was made, the environment too
	rm -rf $(VENV) site dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per extra: `make demo` does not wait for the linters, and nothing is installed twice.
$(VENV)/.has-%: pyproject.toml $(VENV)/.created
	$(PY) -m pip install -qq --disable-pip-version-check --editable '.[$*]'
	@touch $@

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo 'No usable Python 3.11+ found (with venv); name one: make PYTHON=…' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@
