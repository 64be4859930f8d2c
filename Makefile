# Every target makes its own virtual environment from requirements.lock: a fresh clone and Python 3.11 are enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/ready
# Eight virtual devices on few cores may wait long for each other: fail after minutes, not after XLA's 40 seconds.
PATIENT := XLA_FLAGS="$$XLA_FLAGS --xla_cpu_collective_call_terminate_timeout_seconds=300"
# `make test ARGS="tests/rules -k reshape"` runs a part.
# A file's tests stay with one worker, so that what they share is made once. Not reordered: files of few tests, some of
# them long, would come last.
ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-all verify-tpu tpu-compiler lint types contract bench calibration wheel lock clean

help:
	@echo "make demo      plan, draw and train a small GPT on real text over 8 virtual CPU devices"
	@echo "make test      the tests (a part of them: make test ARGS='tests/rules -k reshape')"
	@echo "make test-all  also the slow tests: every model of the zoo under every kind of plan"
	@echo "make verify-tpu  plans compiled for TPU topologies that are not there (downloads libtpu)"
	@echo "make lint      ruff: style and common mistakes"
	@echo "make types     pyright: strict where no JAX is imported"
	@echo "make contract  import-linter: which room may import which"
	@echo "make bench     planning times and plans against recipes, written to benchmarks/results/"
	@echo "make calibration  step times of 150 forced plans, predicted and measured (an hour)"
	@echo "make wheel     the wheel, in dist/"
	@echo "make lock      refresh requirements.lock from pyproject.toml"

$(READY): requirements.lock pyproject.toml
	@echo "Setting up .venv from requirements.lock: a minute or two the first time"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $(READY)

demo: $(READY)
	$(PATIENT) $(BIN)/python examples/demo.py

test: $(READY)
	$(PATIENT) $(BIN)/python -m pytest $(ARGS)

test-all: $(READY)
	$(PATIENT) $(BIN)/python -m pytest -m "slow or not slow" $(ARGS)

# libtpu is large and none of the locked packages: a virtual environment of its own, over the one of the tests.
TPU := .venv-tpu
$(TPU)/ready: $(READY)
	rm -rf $(TPU)
	$(PYTHON) -m venv $(TPU)
	$(TPU)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock libtpu
	$(TPU)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

tpu-compiler: $(TPU)/ready

verify-tpu: $(TPU)/ready
	$(TPU)/bin/python -m pytest -m slow tests/verify -k tpu

lint: $(READY)
	$(BIN)/ruff check --output-format concise .

types: $(READY)
	$(BIN)/pyright

contract: $(READY)
	$(BIN)/lint-imports --no-logo

# The C library keeps the memory that programs give back, as allocators of accelerators do.
KEPT := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=67108864
calibration: $(READY)
	$(KEPT) $(BIN)/python benchmarks/calibration.py measure
	$(BIN)/python benchmarks/calibration.py predict
	$(BIN)/python benchmarks/calibration.py report

bench: $(READY)
	set -e; for name in planning recipes; do echo "== $$name"; $(PATIENT) $(BIN)/python benchmarks/$$name.py; done

wheel: $(READY)
	$(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .

lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet 'hatchling>=1.27' editables '.[test,examples]'
	build/lock/bin/python -m pip freeze --exclude jax-planner > build/requirements.txt
	{ head -n 3 requirements.lock; cat build/requirements.txt; } > build/requirements.lock
	mv build/requirements.lock requirements.lock

clean:
	rm -rf .venv .venv-tpu build dist demo-out .pytest_cache .ruff_cache .import_linter_cache .hypothesis
