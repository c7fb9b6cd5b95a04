# make demo | test | test-fast | bench | bench-gpu | quality | clean.  Each target does all its own set-up: the first run creates .venv, installs the
# project with the exact versions of constraints.txt, later runs need no network. PYTHON=python3.12 picks an interpreter.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS ?= train,dev,docs
# Processes that share the tests: files in turn, and whoever is done takes tests from the end of the other's list.
TEST_WORKERS ?= 2
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_EVALUATE_OFFLINE=1
SUPPORTED := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

# The first of these that runs, is Python 3.11 or newer and can make virtual environments.
CANDIDATES := python3 python3.11 python3.12 python3.13 python3.14 python
PYTHON ?= $(shell for p in $(CANDIDATES); do $$p -c '$(SUPPORTED)' >/dev/null 2>&1 && { echo $$p; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast quality clean test-rest bench bench-gpu
.DELETE_ON_ERROR:

help:
	@echo 'make demo      make an English-German corpus, train a small model on it, score and translate (up to 6 minutes)'
	@echo 'make test      run the tests'
	@echo 'make test-fast run the tests that are neither slow nor start several processes (about a minute)'
	@echo 'make test-rest run the tests that make test leaves out: notebooks, the browser, other toolkits, new Pythons'
	@echo 'make bench     compare speed and memory with other software (about 25 minutes; BENCH_ARGS=--quick: 3)'
	@echo 'make bench-gpu train and decode on one CUDA GPU, against MarianMT and CTranslate2 (about 20 minutes)'
	@echo 'make quality   run the linters: style, house rules, layers of imports, types, dependencies'
	@echo 'make setup     only create $(VENV) and install (the others do this themselves)'
	@echo 'make clean     remove $(VENV), builds, caches and what the demo wrote'

# Also remade after an edit of pyproject.toml or constraints.txt. The stamp comes last, so a broken install starts again.
$(STAMP): pyproject.toml constraints.txt
	@'$(PYTHON)' -c '$(SUPPORTED)' >/dev/null 2>&1 || { \
		echo "This needs Python 3.11 or newer with venv and pip (Debian, Ubuntu: package python3-venv)." >&2; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || '$(PYTHON)' -m venv $(VENV)
	@echo "Installing into $(VENV): a minute or two, longer where PyTorch has to be downloaded ..."
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

setup: $(STAMP)

demo: $(STAMP)
	$(OFFLINE) $(BIN)/python -m vaswani_tx.training.demo $(DEMO_ARGS)

test: $(STAMP)
	$(OFFLINE) $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist worksteal --durations=25 -m 'not notebook and not fresh and not browser and not peers' $(TEST_ARGS)

test-fast: $(STAMP)
	$(OFFLINE) $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist worksteal --durations=25 \
		-m 'not slow and not distributed and not notebook and not fresh and not browser and not peers' $(TEST_ARGS)

test-rest: $(STAMP)
	$(OFFLINE) $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist worksteal -m 'notebook or fresh or browser or peers' $(TEST_ARGS)

# Its peers are an extra of their own: the first run installs them.
BENCH_STAMP := $(VENV)/.installed-bench

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS),bench]'
	@touch $@

bench: $(BENCH_STAMP)
	$(OFFLINE) $(BIN)/python -m tests.benchmarks $(BENCH_ARGS)

# A CUDA build of torch that the machine has is kept; else one comes from PyPI or, if given, from TORCH_INDEX. Versions are
# those of constraints.txt but for torch and what it brings. Failing that (no network), whatever the machine has is used.
GPU_VENV := .venv-gpu
GPU_BIN := $(GPU_VENV)/bin
GPU_STAMP := $(GPU_VENV)/.installed
HAS_CUDA := import sys, torch; sys.exit(not torch.cuda.is_available())
WITHOUT_TORCH := ^(torch|triton|setuptools|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)(==| @)

$(GPU_STAMP): pyproject.toml constraints.txt
	@'$(PYTHON)' -c '$(SUPPORTED)' >/dev/null 2>&1 || { echo "This needs Python 3.11 or newer with venv and pip." >&2; exit 1; }
	@test -x $(GPU_BIN)/python || '$(PYTHON)' -m venv --system-site-packages $(GPU_VENV)
	@grep -v -E '$(WITHOUT_TORCH)' constraints.txt > $(GPU_VENV)/constraints.txt
	@$(GPU_BIN)/python -c '$(HAS_CUDA)' 2>/dev/null || { echo "Installing a CUDA build of torch (some GB) ..."; \
		$(GPU_BIN)/python -m pip install -qq --disable-pip-version-check 'torch>=2.11' $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)); }
	$(GPU_BIN)/python -m pip install -qq --disable-pip-version-check -c $(GPU_VENV)/constraints.txt -e '.[train,bench]' || \
		$(GPU_BIN)/python -m pip install -qq --disable-pip-version-check --no-index --no-deps --no-build-isolation -e .
	@touch $@

bench-gpu: $(GPU_STAMP)
	$(OFFLINE) $(GPU_BIN)/python -m tests.benchmarks.gpu $(BENCH_ARGS)

quality: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python tests/quality_rules.py
	$(BIN)/python tests/staged.py imports
	$(BIN)/python tests/staged.py types
	$(BIN)/python -m deptry .
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) $(GPU_VENV) gpu_speed build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache demo_run
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
