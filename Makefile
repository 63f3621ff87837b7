# Everyday commands; `make help` lists them. A target is one or two visible lines.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROMPT ?= Write a Python function that returns the n-th Fibonacci number, and explain it in two sentences.
# Recipes read it from the environment: pasted into a line, its quotes would be the shell's.
export PROMPT
# Two processes take whole files in turn: most tests keep one core busy, or wait for a program.
IN_TWO := -n 2 --dist loadfile --no-loadscope-reorder
# The same order and the same draws each time: a failure is met again, and mended, not waited for.
REPEATABLE := --randomly-seed=20261123
SOURCES := $(shell find csrc CMakeLists.txt pyproject.toml -type f 2>/dev/null)

.PHONY: help run setup build check fix test test-all test-isa test-amx test-cuda-cpu test-cuda-cases soak models example-media bench bench-peers serve size clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

run: $(VENV)/.stamp-run  ## build, fetch the default model, stream an answer
	$(BIN)/headrace run -- "$$PROMPT" < /dev/null

serve: $(VENV)/.stamp-run  ## an OpenAI-compatible server on http://127.0.0.1:8000
	$(BIN)/headrace serve qwen2.5-coder:0.5b

setup: $(VENV)/.stamp-dev  ## environment with everything tests and checks need

build: $(VENV)/.stamp-dev  ## rebuild the C++ extension, incremental
	$(BIN)/pip install -q --no-build-isolation --no-deps -e .

check: $(VENV)/.stamp-dev  ## format, lint, types, import contracts, C++ symbols; changes nothing
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports
	find csrc -name '*.cpp' -o -name '*.h' -o -name '*.inl' | xargs $(BIN)/clang-format --dry-run -Werror
	find build -name 'tier.cpp.o' | xargs $(BIN)/python scripts/check_symbols.py
	$(BIN)/python scripts/make_reference_docs.py --check && $(BIN)/python scripts/make_readme_table.py --check

fix: $(VENV)/.stamp-dev  ## repair what `make check` can repair
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .
	find csrc -name '*.cpp' -o -name '*.h' -o -name '*.inl' | xargs $(BIN)/clang-format -i
	$(BIN)/python scripts/make_reference_docs.py && $(BIN)/python scripts/make_readme_table.py

models: $(VENV)/.stamp-run  ## fetch the models the tests use
	$(BIN)/headrace pull qwen2.5-coder:0.5b && $(BIN)/headrace pull qwen2.5-coder:1.5b && $(BIN)/headrace pull gemma3:270m && $(BIN)/headrace pull all-minilm-l6-v2

test: $(VENV)/.stamp-dev models  ## everything that must pass
	$(BIN)/python -m pytest $(IN_TWO) $(REPEATABLE) -m "not slow and not gpu"

test-all: $(VENV)/.stamp-dev models  ## the same and the slow ones, in another order with other draws
	$(BIN)/python -m pytest $(IN_TWO) --hypothesis-profile=anew -m "not gpu"

test-isa: $(VENV)/.stamp-dev  ## kernel cases on each instruction set here; says which could not run
	$(BIN)/python scripts/test_isa.py

test-amx: $(VENV)/.stamp-dev  ## the AMX kernels without AMX: their tiles in memory
	$(BIN)/python scripts/test_amx.py -q $(REPEATABLE)

# Triton's interpreter and its compiler want a process each; whatever torch brings stays as it is.
CUDA_CASES := not draws and not neighbour and not independent and not 32003 and not bad_logits
test-cuda-cpu: $(VENV)/.stamp-triton  ## the CUDA kernels without a GPU: interpreted, and compiled
	PYTHONPATH=$(VENV)/triton $(BIN)/python scripts/compile_cuda_kernels.py --check
	PYTHONPATH=$(VENV)/triton TRITON_INTERPRET=1 $(BIN)/python -m pytest $(IN_TWO) tests/cuda

test-cuda-cases: $(VENV)/.stamp-triton  ## the kernel cases of all devices, interpreted; ten minutes
	PYTHONPATH=$(VENV)/triton TRITON_INTERPRET=1 $(BIN)/python -m pytest $(IN_TWO) tests/kernels -k "cuda and $(CUDA_CASES)"

soak: $(VENV)/.stamp-dev models  ## two hours of mixed traffic and aborts: make soak args="--minutes 10"
	$(BIN)/python benchmarks/engine/soak.py $(args)

# Eight articles each, a quarter of an hour; full=1 asks all 108, concurrency=8 eight calls at a time, record=1
# writes the page where it is kept.
MEDIA := examples/media_company/workload.yaml
example-media: $(VENV)/.stamp-run  ## the media company: profile, plan, and a report as HTML
	$(BIN)/headrace profile $(MEDIA) $(if $(full),,--samples 8) $(if $(concurrency),--concurrency $(concurrency))
	$(BIN)/headrace report $(MEDIA) $(if $(record),-o $(dir $(MEDIA))report.html)
	$(BIN)/headrace capacity $(MEDIA) --tier cheap

bench: $(VENV)/.stamp-dev  ## one benchmark: make bench name=engine/floors args=--record
	$(BIN)/python benchmarks/$(name).py $(args)

bench-peers: $(VENV)/.stamp-dev models  ## llama.cpp, vLLM, OpenVINO, transformers beside headrace, in rounds
	$(BIN)/python benchmarks/peers/bench_peers.py $(args)

size: $(VENV)/.stamp-dev  ## lines per package beside the budget
	$(BIN)/python scripts/size.py

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist src/headrace/_cpu*.so

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-run: $(VENV)/pyvenv.cfg $(SOURCES)
	@echo "building the C++ kernels (about two minutes)..."
	$(BIN)/pip install -q -e .
	touch $@

# 188 MB, 640 MB unpacked. Kept apart: torch from PyPI names another version of it.
$(VENV)/.stamp-triton: $(VENV)/.stamp-dev
	$(BIN)/pip install -q --no-deps --upgrade --target $(VENV)/triton triton==3.6.0
	touch $@

$(VENV)/.stamp-dev: $(VENV)/pyvenv.cfg $(SOURCES)
	@echo "building the C++ kernels (about two minutes)..."
	$(BIN)/pip install -q "nanobind>=2.9" "scikit-build-core>=0.11" "cmake>=3.25" "ninja>=1.11"
	$(BIN)/pip install -q --no-build-isolation -e ".[test,dev]"
	touch $@ $(VENV)/.stamp-run
