# Everything a user or developer runs. The environment is set up on first use, from pinned versions.
PYTHON ?= python3
GAME ?= Pong
PRESET ?= laptop
STEPS ?=
MINUTES ?= 10
ARGS ?=
BIN := .venv/bin

.PHONY: train test faults cluster check docs setup format mutants soak bench clean

train: setup
	$(BIN)/apexpert train --preset $(PRESET) --game $(GAME) $(if $(STEPS),--total-env-steps $(STEPS)) $(ARGS)

test: setup
	$(BIN)/python -m pytest -m "not faults_long and not cluster" -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# The fault tests that are too long for `make test`.
faults: setup
	$(BIN)/python -m pytest -m "faults_long and not cluster" $(ARGS)

# Runs on several machines, made of namespaces on this one: needs root; as root, a test that is skipped fails.
cluster: setup
	APEXPERT_CLUSTER_NEEDED=1 $(BIN)/python -m pytest -m cluster $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python benchmarks/sizes.py

# The documentation as a site, in site/; a warning is an error. NO_MKDOCS_2_WARNING hides the theme's notice.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Applies each patch of tests/mutations in a copy of the tree and sees the test that it names fail.
mutants: setup
	$(BIN)/python -m tests.mutations.run $(ARGS)

# The long forms of the tests, for about MINUTES minutes.
soak: setup
	$(BIN)/python -m tests.helpers.runs.soak --minutes $(MINUTES) $(ARGS)

bench: setup
	$(BIN)/apexpert bench end-to-end --json

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Apexpert needs Python 3.11 to 3.13; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist site
