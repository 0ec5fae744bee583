# make run    a virtual environment, the packages, and the demo: generated dialogues and photos,
#             minutes on a CPU, and at the end a page to look at
# make test   the tests that every change must pass
# make test-all   also the long ones
# make lint   ruff

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Tests compile much and compute little. (On a mesh some ask for equality to the last bit.)
QUICK := --xla_backend_optimization_level=0
EIGHT_DEVICES := --xla_force_host_platform_device_count=8
PYTEST = $(BIN)/python -m pytest -q
FAST := -m "not slow"

# XLA's temporary buffers on a CPU in large pages: without them a third of the time goes into faults.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: run test test-all lint clean
.DELETE_ON_ERROR:

run: $(VENV)/.installed
	$(BIN)/python -m mmjax.main --config=configs/retrieval.py:demo
	$(BIN)/python -m mmjax.main --config=configs/retrieval.py:demo --mode=predict

test: SELECT = $(FAST)
test: lint pytest

test-all: SELECT =
test-all: lint pytest

# Two at a time: what runs mmjax in other processes waits more than it computes.
.PHONY: pytest pytest-runs pytest-library pytest-mesh
pytest: $(VENV)/.installed-test
	@$(MAKE) --no-print-directory -j2 --keep-going --output-sync=target SELECT='$(SELECT)' \
		pytest-runs pytest-library pytest-mesh

pytest-runs:
	XLA_FLAGS='$(QUICK)' $(PYTEST) $(SELECT) tests/end_to_end tests/multiprocess

pytest-library:
	XLA_FLAGS='$(QUICK)' $(PYTEST) $(SELECT) tests/unit tests/launch tests/parity tests/tpu

pytest-mesh:
	XLA_FLAGS='$(EIGHT_DEVICES)' $(PYTEST) $(SELECT) tests/mesh

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/.installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12) and "mmjax needs Python 3.11 or 3.12: make PYTHON=python3.12 run")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.installed-test: requirements-test.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	touch $@

clean:
	rm -rf $(VENV) data runs
