# The two commands of a newcomer are `make demo` and `make test`; everything else is listed by `make help`.
BUILD ?= build/release
JOBS ?= $(shell nproc)
WERROR ?= OFF
PROGRAM = $(BUILD)/bin/vlmzoo

.PHONY: help setup build test demo demo-models crash reference bench bench-training memory lint clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-14s %s\n", $$1, $$2}'

setup: ## install what is missing: Debian packages (as root) and LibTorch into .venv
	@.ci/setup

build: setup ## compile the program and its plugins into build/release
	@cmake --preset release -DCMAKE_PREFIX_PATH="$$(.ci/setup --print-libtorch)/share/cmake" -DVLMZOO_WARNINGS_AS_ERRORS=$(WERROR) > $(BUILD)-configure.log 2>&1 \
	  || { cat $(BUILD)-configure.log; exit 1; }
	@cmake --build --preset release -j $(JOBS) --target program

test: build ## compile the tests and run all but the slow ones
	@cmake --build --preset release -j $(JOBS)
	@ctest --test-dir $(BUILD) --output-on-failure -j 1

demo: build ## two small models count receipts on fresh pictures; switch, compare, verify
	@apps/demo.sh $(PROGRAM)

demo-models: build ## train the demo's two small models from nothing (half an hour each)
	@apps/demo_models.sh $(PROGRAM)

crash: build ## kill a training run at random moments, 20 times, and compare what it ends with (5 minutes)
	@cmake --build --preset release -j $(JOBS) --target train_test
	@VLMZOO_TEST_KILLS=20 $(BUILD)/tests/train_test -tc='*killed*'

reference: build ## make the goldens again with the pinned Python packages; compare the demo's models with them
	@tests/reference/make_all.sh $(PROGRAM)

bench: build ## compare with transformers: InternVL2.5-1B whole, Llama-3.2-11B-Vision cut in depth (9 GB of disk, 30 minutes)
	@tests/reference/bench.sh $(PROGRAM) internvl
	@tests/reference/bench.sh $(PROGRAM) llama-vision

bench-training: build ## a training step of InternVL2.5-1B beside transformers and PyTorch (16 GB of memory, 30 minutes)
	@tests/reference/bench.sh $(PROGRAM) training

memory: build ## Llama-3.2-11B-Vision's full shape within its memory limits (22 GB of disk and of memory, 20 minutes)
	@tests/heavy/llama_vision_memory.sh $(PROGRAM)

lint: ## clang-format, our greps, and clang-tidy on the files without LibTorch headers
	@.ci/lint $(BUILD)

clean: ## remove build/ (not .venv/)
	@rm -rf build
