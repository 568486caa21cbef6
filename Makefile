# make demo, examples, test, bench, lint: each sets up what it needs in $(VENV) first, once.
# make gpu: checks and benchmark of the Triton backend, on a machine with a GPU; nine minutes.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
# Twice quiet: errors only.
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input

.DELETE_ON_ERROR:
.PHONY: demo examples test bench gpu lint clean FORCE

demo: $(VENV)/.installed
	@$(BIN)/python -m fastrnn demo $(ARGS)

# Every program of examples/, some thirty minutes; ARGS="digits tree" runs those two.
examples: $(VENV)/.installed $(VENV)/.requirements-examples
	@$(BIN)/python examples/run_all.py $(ARGS)

test: $(VENV)/.installed $(VENV)/.requirements-bench $(VENV)/.requirements-examples
	@$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.installed $(VENV)/.requirements-bench
	@$(BIN)/python -m fastrnn bench $(ARGS)

# With the torch of the machine, which knows its GPU: the pinned one may be the CPU's.
gpu:
	@$(PYTHON) -m bench.gpu $(ARGS)

lint: $(VENV)/.requirements
	@echo "lint: ruff check, ruff format, mypy"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy fastrnn examples

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --clear: what an interrupted run left is no environment.
$(BIN)/python:
	@echo "setup: virtual environment in $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.requirements: requirements.txt | $(BIN)/python
	@echo "setup: pinned requirements (some minutes the first time)"
	@$(PIP) install --requirement $<
	@touch $@

$(VENV)/.requirements-bench: requirements-bench.txt $(VENV)/.requirements
	@echo "setup: pinned requirements of the benchmarks"
	@$(PIP) install --requirement $<
	@touch $@

$(VENV)/.requirements-examples: requirements-examples.txt $(VENV)/.requirements
	@echo "setup: pinned requirements of the examples"
	@$(PIP) install --requirement $<
	@touch $@

# Editable: Python files are read where they lie; compiled files are what a stamp has to watch.
$(VENV)/.installed: $(VENV)/.requirements $(VENV)/.files pyproject.toml CMakeLists.txt \
		$(shell find csrc -type f)
	@echo "setup: compiling and installing fastrnn (five minutes on two cores the first time)"
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

# The names of all files: the installation maps each module, so one that comes or goes counts.
$(VENV)/.files: FORCE | $(BIN)/python
	@find csrc fastrnn kernels -type f ! -name '*.pyc' | LC_ALL=C sort > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@
