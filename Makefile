# make demo    sets everything up, unlearns a small model with three methods, prints the table
# make test    sets everything up, runs the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Models this small gain nothing from a second thread, and lose much of it to waiting.
export OMP_NUM_THREADS ?= 1

# Extra pip options for torch alone, such as TORCH_INDEX="--index-url https://download.pytorch.org/whl/cpu"
TORCH_INDEX ?=
DEMO_DATASET ?= sandbox
DEMO_METHODS ?= bidirectional,refusal_sft,grad_diff
DEMO_STUDY ?= demo
DEMO_RUNS ?= runs
DEMO_ARGS ?=
TEST_JOBS ?= auto

.PHONY: demo test lint docs bench clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "harmonize needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt $(TORCH_INDEX) torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# overwrite=true: the demo may be run again.
demo: $(READY)
	$(BIN)/harmonize unlearn -m method=$(DEMO_METHODS) dataset=$(DEMO_DATASET) study=$(DEMO_STUDY) \
	  paths.runs=$(DEMO_RUNS) overwrite=true $(DEMO_ARGS)
	$(BIN)/harmonize reproduce-paper-table --study $(DEMO_RUNS)/$(DEMO_STUDY)

test: $(READY)
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The generated parts of docs/methods.md and docs/attacks.md.
docs: $(READY)
	$(BIN)/python -m harmonize.reporting.methods_page

# Three quarters of an hour of one core; writes benchmarks/results/{cpu,evaluating}.json and the tables of docs/benchmarks.md.
bench: $(READY)
	rm -f bench.jsonl
	$(BIN)/python -m benchmarks.cpu_protocol --out bench.jsonl
	$(BIN)/python -m benchmarks.page --keep bench.jsonl cpu
	rm -f bench.jsonl
	$(BIN)/python -m benchmarks.evaluating --out bench.jsonl
	$(BIN)/python -m benchmarks.page --keep bench.jsonl evaluating

# Keeps .venv, runs/ and the caches under HARMONIZE_CACHE.
clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find harmonize tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
