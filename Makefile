# Two commands for a newcomer: `make demo` and `make test`. Each makes the virtual environment that it needs.
PYTHON ?= python3
FAMILY ?= mmprune-out
PICTURE ?= docs/report.png
LATENCY_MS ?= 0.05
FUZZ_SECONDS ?= 60
BIN = .venv/bin
# One process a core, and one thread of torch in each; the files that take longest start first
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder

.PHONY: help demo docs test test-all lint bench bench-gate chaos fuzz screenshots wheel clean

help:
	@echo 'make demo      sparse int8 models for this machine, beside dense ones, and the one that fits a small budget'
	@echo 'make docs      the documentation as a website in site/, which opens without a server or a network'
	@echo 'make test      the quick tests: of every module some, a few minutes'
	@echo 'make test-all  all tests: also timm'"'"'s families, long builds, sanitizers, emulated boards and CPUs'
	@echo 'make lint      ruff and mypy'
	@echo 'make bench     two benchmarks: what building costs beside bare PyTorch, and the probe beside its peers'
	@echo 'make bench-gate  fails if mmrt is slower than its committed rows of this core'
	@echo 'make fuzz      hostile input for every loader, FUZZ_SECONDS=60 each; needs clang'
	@echo 'make chaos     breaks small builds in many ways, and says what did not hold; as root also by mounts'
	@echo 'make screenshots  PICTURE=docs/report.png of the folder FAMILY, by default that of make demo; needs Chromium'
	@echo 'make wheel     a wheel in dist/'
	@echo 'make clean     removes what these commands made'

# Three of the ten strategies and one that is built for a speed: all ten would take twice as long
demo: .venv/installed
	$(BIN)/mmprune build --target local --precision fp32,int8 --epochs 1 \
	    --strategies interp-60,interp-80,max,budget --speedup 1.5 --out mmprune-out
	$(BIN)/mmprune choose mmprune-out --max-drop 1 --max-size-mb 0.2 --max-memory-mb 60 --out deploy

docs: .venv/installed-docs
	$(BIN)/python benchmarks/tables.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'open site/index.html'

test: .venv/installed-dev
	$(PYTEST) -m "not slow"

# What is skipped, for want of an emulator or a package, is said with its reason
test-all: .venv/installed-dev
	$(PYTEST) -rs

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --style=file:runtime/.clang-format --dry-run --Werror $$(find runtime fuzz -name '*.cc' -o -name '*.h')

bench: .venv/installed-dev
	$(BIN)/python benchmarks/build_speed.py
	$(BIN)/python benchmarks/probe_vs_peers.py

bench-gate: .venv/installed-dev
	$(BIN)/python benchmarks/bench_gate.py

fuzz: .venv/installed-dev
	$(BIN)/pip install --quiet --progress-bar off -e '.[fuzz]'
	$(BIN)/python -m fuzz.run --seconds $(FUZZ_SECONDS)

chaos: .venv/installed-dev
	$(BIN)/pip install --quiet --progress-bar off -e '.[ray]'
	$(BIN)/python benchmarks/chaos.py

screenshots: .venv/installed-dev
	$(BIN)/python benchmarks/report_screenshot.py $(FAMILY) --out $(PICTURE) --latency-ms $(LATENCY_MS)

# MMPRUNE_ARCH=aarch64 make wheel: for a Raspberry Pi or a Jetson, with g++-aarch64-linux-gnu
wheel: .venv/installed-dev
	$(BIN)/pip wheel --no-deps --wheel-dir dist .

# torch and torchvision in one pip call: they must match. int8 brings what OpenVINO's int8 files are made with
.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --progress-bar off -e '.[int8]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --progress-bar off -e '.[dev]'
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet --progress-bar off -e '.[docs]'
	touch $@

clean:
	rm -rf .venv build dist site *.egg-info mmprune-out deploy
