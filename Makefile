# Two commands for a newcomer: `make demo` and `make test`. Each makes the virtual environment that it needs.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint bench wheel clean

demo: .venv/installed
	$(BIN)/mmprune build --target x86 --epochs 1 --formats onnx,openvino-fp16,mmrt-fp32 --out mmprune-out
	$(BIN)/mmprune choose mmprune-out --max-latency-ms 2 --max-size-mb 1.6 --out deploy

test: .venv/installed-dev
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(find runtime -name '*.cc' -o -name '*.h')

bench: .venv/installed-dev
	$(BIN)/python benchmarks/family_cost.py
	$(BIN)/python benchmarks/probe_vs_peers.py

wheel: .venv/installed-dev
	$(BIN)/pip wheel --no-deps --wheel-dir dist .

# torch and torchvision in one pip call: they must match
.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --progress-bar off -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --progress-bar off -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info mmprune-out deploy
