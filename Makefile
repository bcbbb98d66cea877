# Every target works as the first command in a fresh clone: what it needs, it installs into .venv.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
CHECKS := format lint types contracts doctests
heading = @printf '\n== %s\n'

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

.PHONY: demo
demo: .venv/core ## train a VAE on real handwritten digits and write its report
	$(BIN)/narrows fit digits --model vae --out runs/demo --force

# One thread a worker: pytest-xdist already uses every core.
.PHONY: test
test: .venv/dev ## run the tests, less the wide and the slow ones
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -m "not wide and not slow"

.PHONY: wide
wide: .venv/dev ## run the rest of the grids, model by model and field by field, and long proofs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -m "wide and not slow"

.PHONY: slow
slow: .venv/dev ## run the slow tests: many processes, a browser, injected faults
	$(BIN)/pytest -m slow

.PHONY: check $(CHECKS:%=check-%)
check: $(CHECKS:%=check-%) ## format, lint, types, contracts, doctests; `make -k check` goes on after a failure

check-format: .venv/dev
	$(heading) format
	$(BIN)/ruff format --check .

check-lint: .venv/dev
	$(heading) lint
	$(BIN)/ruff check .

check-types: .venv/dev
	$(heading) types
	$(BIN)/mypy

check-contracts: .venv/dev
	$(heading) contracts
	$(BIN)/lint-imports

check-doctests: .venv/dev
	$(heading) doctests
	$(BIN)/pytest --doctest-modules -q src

.PHONY: fix
fix: .venv/dev ## format the code and mend what the linter can
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

.PHONY: fields
fields: .venv/core ## write what is generated from the models: fields.json, the README's table, docs/models
	$(BIN)/python scripts/make_fields.py
	$(BIN)/python scripts/make_pages.py

.PHONY: bench
bench: .venv/dev ## run every benchmark on the data in $NARROWS_DATA
	@test -n "$$NARROWS_DATA" || { echo "NARROWS_DATA is not set: name the folder of the benchmark data, as in 'make bench NARROWS_DATA=~/data'." >&2; exit 2; }
	@failed=; for script in benchmarks/[!_]*.py; do \
	  printf '\n== %s\n' "$$script"; $(BIN)/python "$$script" || failed="$$failed $$script"; \
	done; test -z "$$failed" || { echo "Failed:$$failed" >&2; exit 1; }

.PHONY: docs
docs: .venv/dev ## build the documentation into site/
	$(BIN)/zensical build --clean --strict

.PHONY: clean
clean: ## remove what make made; your own runs/ stay
	rm -rf .venv site dist runs/demo .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv .venv

# Two stamps, so that the demo does not wait for the developers' tools.
.venv/core: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing narrows into .venv (once; mostly PyTorch)"
	$(INSTALL) -e .
	@touch $@

.venv/dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing narrows and its tools into .venv (once; mostly PyTorch)"
	$(INSTALL) -e '.[dev]'
	@touch .venv/core $@
