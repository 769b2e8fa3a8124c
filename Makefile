# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDER := .venv-4.57
# One thread a process: on two cores more threads wait for each other longer than they work.
export OMP_NUM_THREADS ?= 1

.PHONY: demo demo-tables demo-images test test-slow test-portability lint format bench clean

demo: $(READY)
	$(BIN)/quiltwork demo --out demo-out

demo-tables: $(READY)
	$(BIN)/quiltwork demo tables --out demo-tables

demo-images: $(READY)
	$(BIN)/quiltwork demo images --out demo-images

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadscope -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# Composes with the transformers of this environment, and computes with it and with the oldest that must read the result.
test-portability: $(READY) $(OLDER)/.ready
	rm -rf build/portability
	PYTHONPATH=tests $(BIN)/python tests/portability/portable_models.py build/portability
	$(BIN)/python tests/portability/check_models.py build/portability/models
	$(OLDER)/bin/python tests/portability/check_models.py build/portability/models

$(OLDER)/.ready: constraints-4.57.txt
	test -d $(OLDER) || $(PYTHON) -m venv $(OLDER)
	$(OLDER)/bin/python -m pip install --quiet --constraint constraints-4.57.txt torch numpy transformers
	touch $@

lint: $(READY)
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix src tests benchmarks examples
	$(BIN)/ruff format src tests benchmarks examples

# DATA is a folder of <domain>.txt.gz, documents separated by form feeds.
bench: $(READY)
	@test -n "$(DATA)" || { echo "usage: make bench DATA=folder PUBLIC=a,b PARTIES=c,d"; exit 2; }
	$(BIN)/python benchmarks/text.py --data $(DATA) --public $(PUBLIC) --parties $(PARTIES) --json benchmarks/results/text.json

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("quiltwork needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(OLDER) demo-out demo-tables demo-images build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
