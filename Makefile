# Everything a clean clone needs: each target makes its own virtual environment and installs into it
# what it needs, as wheels from the package index. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv

# Sizes of the long runs. They change how much is done, never whether it passes.
SECONDS ?= 60
STEPS ?= 1000000
KERNELS ?= 6.1 6.12

MAKEFLAGS += --no-print-directory
.SUFFIXES:
.DEFAULT_GOAL := help
# The targets share one virtual environment: never install two sets into it at once.
.NOTPARALLEL:

python := $(VENV)/bin/python
install = $(python) -m pip install -qq --disable-pip-version-check --only-binary :all: --editable

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

.PHONY: demo
demo: $(VENV)/.demo ## train embeddings in NumPy, track what is written, check it against the truth
# One thread trains as fast, the matrices being small; and threads of BLAS that spin on another processor make
# every TLB flush of a scan an interrupt to it: a collect took 3.9 ms instead of 1.2.
	@OPENBLAS_NUM_THREADS=1 $(python) examples/embeddings.py $(ARGS)

.PHONY: test
test: $(VENV)/.test ## the whole test-suite, with the coverage figure
	@$(python) -m pytest --cov --cov-report=term $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## ruff and mypy
	@$(python) -m ruff check --quiet
	@$(python) -m ruff format --quiet --check
	@$(python) -m mypy --no-error-summary
	@MYPYPATH=src:examples $(python) -m mypy --no-error-summary examples scripts

.PHONY: check
check: lint test ## what CI runs: lint, then the tests

.PHONY: bench
bench: $(VENV)/.bench ## this machine's figures against C, hashing and comparing, in one run
	@$(python) -m benchmarks $(ARGS)

.PHONY: soak
soak: $(VENV)/.test ## writers against collectors for SECONDS (default 60), on each backend
	@$(python) -m tests.soak --seconds $(SECONDS) $(ARGS)

.PHONY: differential
differential: $(VENV)/.test ## the model against this kernel for STEPS operations (default 1000000)
	@$(python) -m tests.differential $(STEPS) $(ARGS)

.PHONY: kernels
kernels: $(VENV)/.test ## conformance and tracker tests on KERNELS (default 6.1 6.12) in QEMU and on this one
	@$(python) -m scripts.kernels $(KERNELS:%=--kernel %) --host $(ARGS)

.PHONY: clean
clean: ## remove the virtual environment, caches and results
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
	find src tests benchmarks examples scripts -name __pycache__ -prune -exec rm -rf {} +

# ---- virtual environment: one stamp for each set of packages, older than pyproject.toml = stale ------

$(VENV)/.created:
	@python=$$(scripts/find-python '$(PYTHON)') && echo "making $(VENV) with $$python" >&2 && \
	    "$$python" -m venv $(VENV)
	@touch $@

$(VENV)/.demo: set = cli,fast
$(VENV)/.test: set = test
$(VENV)/.bench: set = cli,fast
$(VENV)/.dev: set = dev
$(VENV)/.demo $(VENV)/.test $(VENV)/.bench $(VENV)/.dev: $(VENV)/.created pyproject.toml
	@echo "installing writewatch[$(set)] into $(VENV)" >&2
	@$(install) '.[$(set)]'
	@touch $@
