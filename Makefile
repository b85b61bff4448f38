# Develop onnxq. `make demo` and `make test` need nothing but Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
SAMPLES := sample_models
DEMO := demo

.PHONY: setup demo test lint types imports unit fmt test-deep golden models bench clean

setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# The main job on two models trained for this project: calibrate, quantize, compare.
demo: .venv/ready
	@mkdir -p $(DEMO)
	@for model in fashion_resnet fashion_mobilenet; do \
	  $(MAKE) --no-print-directory MODEL=$$model demo-one || exit 1; \
	done

.PHONY: demo-one
demo-one:
	$(BIN)/onnxq calibrate $(SAMPLES)/$(MODEL)/model.onnx --data $(SAMPLES)/$(MODEL)/calib.npz -o $(DEMO)/$(MODEL).calib
	$(BIN)/onnxq quantize $(SAMPLES)/$(MODEL)/model.onnx --calib $(DEMO)/$(MODEL).calib -o $(DEMO)/$(MODEL).int8.onnx
	$(BIN)/onnxq compare $(SAMPLES)/$(MODEL)/model.onnx $(DEMO)/$(MODEL).int8.onnx --data $(SAMPLES)/$(MODEL)/eval.npz --latency

test: .venv/ready lint types imports unit

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/ready
	$(BIN)/mypy

imports: .venv/ready
	$(BIN)/lint-imports

unit: .venv/ready
	$(BIN)/python -m pytest -n auto --dist loadfile --cov --cov-report=term:skip-covered

fmt: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-deep: .venv/ready
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest

golden: .venv/ready
	REGEN_GOLDEN=1 $(BIN)/python -m pytest tests/golden
	git diff --stat tests/golden

models: .venv/ready
	$(BIN)/pip install --quiet torch
	$(BIN)/python $(SAMPLES)/train.py

# BENCH_ARGS='--models fashion_resnet --fetch', and so on: benchmarks/README.md.
bench: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

clean:
	rm -rf .venv $(DEMO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
