# The two commands are `make demo` and `make test`; `make help` lists the rest. Everything goes through CMake presets (CMakePresets.json):
# this file only strings them together, and first lets tools/deps.sh install what the machine lacks.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := all
MAKEFLAGS += --no-print-directory

BUILD ?= build/release
VENV ?= .venv
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
# Warnings are errors in CI and in the dev and sanitizer presets; a newer compiler's new warning does not stop a user's build.
WERROR ?= $(if $(CI),ON,OFF)
# Processes of pytest; `make test PYTEST_JOBS=0` runs the tests one by one in one process.
PYTEST_JOBS ?= $(JOBS)
PYTEST_ARGS ?=
# In CI a test that fails gets one more try, and is counted as rerun: the load of others can break one that waits for time.
RERUNS ?= $(if $(CI),--reruns 1)
SOAK_SECONDS ?= 600

# With MCS_SKIP_DEPS=1 there may be no .venv: then the python3 on PATH must have what tools/requirements.txt lists.
PY = $(shell test -x $(VENV)/bin/python && echo $(CURDIR)/$(VENV)/bin/python || command -v python3)
# The environment of everything that runs from the build tree.
RUN_ENV = env PYTHONPATH=$(CURDIR)/$(BUILD)/python MCS_BUILD_DIR=$(CURDIR)/$(BUILD) PATH=$(CURDIR)/$(BUILD)/master:$$PATH

export VENV

.PHONY: all deps deps-lint build demo test test-unit test-python test-asan test-tsan fuzz test-gpu test-rdma bench-gpu gpu-carry cov lint format tidy \
	bench bench-quick bench-docs bench-smoke bench-instructions bench-deps bench-replay soak wheel install clean distclean help

all: build ## release build (the default)

deps: ## install what the build and the tests need and the machine lacks
	@tools/deps.sh build test

deps-lint: deps
	@tools/deps.sh build test lint

build: deps
	@mkdir -p build
	@cmake --preset release -B $(BUILD) -DMCS_WERROR=$(WERROR) -DPython3_EXECUTABLE=$(PY) >build/configure.log 2>&1 \
		|| { cat build/configure.log; exit 1; }
	@cmake --build $(BUILD) -j $(JOBS)

demo: build ## two processes put and get KV blocks through an embedded master
	@$(RUN_ENV) $(PY) bench/demo.py

test: build ## unit tests (C), module tests and system tests (pytest)
	@failed=0; \
	tools/run_ctest.sh $(BUILD) -j $(JOBS) -LE python || failed=1; \
	$(RUN_ENV) $(PY) -m pytest -q -n $(PYTEST_JOBS) --dist loadfile --timeout 600 $(RERUNS) tests/python tests/system $(PYTEST_ARGS) || failed=1; \
	exit $$failed

test-unit: build ## the C tests only
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS) -LE python

test-python: build ## the pytest suites only; PYTEST_ARGS="-k name"
	@$(RUN_ENV) $(PY) -m pytest -q -n $(PYTEST_JOBS) --dist loadfile --timeout 600 tests/python tests/system $(PYTEST_ARGS)

test-asan: deps ## the C tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@tools/sanitize.sh asan

test-tsan: deps ## the C tests without UCX under ThreadSanitizer
	@tools/sanitize.sh tsan

fuzz: deps ## libFuzzer over what parses foreign bytes: the seeds, and new inputs for half a minute
	@tools/deps.sh build fuzz
	@CC=clang cmake -B build/fuzz -DMCS_FUZZ=ON -DMCS_TESTS=OFF -DPython3_EXECUTABLE=$(PY) >build/configure-fuzz.log 2>&1 \
		|| { cat build/configure-fuzz.log; exit 1; }
	@cmake --build build/fuzz -j $(JOBS) --target fuzzers
	@ctest --test-dir build/fuzz --output-on-failure -j $(JOBS) -L fuzz

test-gpu: $(if $(CARRY),,build) ## the tests that need a GPU; says so and passes where there is none (CARRY=folder of gpu-carry)
	@tools/test_gpu.sh $(or $(CARRY),$(BUILD))

test-rdma: build ## the tests that need an RDMA device: with this machine's, else in a guest that has one in software (MCS_TEST_UCX=library)
	@grep -qs ACTIVE /sys/class/infiniband/*/ports/*/state || tools/deps.sh build test rdma
	@tools/test_rdma.sh $(BUILD)

bench-gpu: $(if $(CARRY),,build) ## GPU benchmark: ceilings, then the store (CARRY=folder of gpu-carry, BENCH_ARGS="--quick")
	@tools/bench_gpu.sh $(or $(CARRY),$(BUILD)) $(BENCH_ARGS)

gpu-carry: build ## a folder (CARRY=, default gpu-carry) for test-gpu and bench-gpu on a machine without network and packages
	@tools/gpu_carry.sh $(BUILD) $(or $(CARRY),gpu-carry)

cov: deps ## line and branch coverage of the C tests
	@tools/deps.sh build test cov
	@tools/coverage.sh

lint: deps-lint build ## all gates: format, dependency rule, banned calls, headers, exports, sizes, cppcheck
	@tools/lint.sh $(BUILD)

tidy: build ## clang-tidy over the C files (slow)
	@tools/deps.sh build test lint tidy
	@tools/tidy.sh $(BUILD)

format: deps-lint ## clang-format every C file in place
	@tools/format.sh

bench-smoke: build ## put/get GB/s of 4 KiB, 64 KiB, 1 MiB beside memcpy
	@$(RUN_ENV) $(PY) bench/bench_smoke.py

# Peers and plots are worth having, not needed: without network the rows of what is missing say so.
bench-deps: build
	@tools/deps.sh build test bench || echo "bench: some peers are missing; their rows will say so"
	@$(PY) -c 'import matplotlib' 2>/dev/null || $(PY) -m pip install --quiet --disable-pip-version-check -r tools/requirements-bench.txt \
		|| echo "bench: no matplotlib, no plots"

bench: bench-deps ## the benchmark suite, beside memcpy, raw sockets, Mooncake, Redis, memcached (TRACE=file.jsonl, BENCH_ARGS="--only bulk")
	@$(RUN_ENV) $(PY) bench/run.py --build $(BUILD) $(if $(TRACE),--trace "$(TRACE)") $(BENCH_ARGS)

bench-quick: bench-deps ## the same in small: does everything run? (under two minutes; no figures to be quoted)
	@$(RUN_ENV) $(PY) bench/run.py --build $(BUILD) --out build/bench-quick --quick $(BENCH_ARGS)

bench-docs: bench-deps ## runs the suite and writes docs/performance.md and docs/img (RESULTS=file: from results that are there)
	@$(RUN_ENV) $(PY) bench/run.py --build $(BUILD) --page docs/performance.md $(if $(TRACE),--trace "$(TRACE)") \
		$(if $(RESULTS),--from "$(RESULTS)") $(BENCH_ARGS)

bench-instructions: bench-deps ## instructions of single operations by callgrind, against bench/baseline.json (UPDATE=1 writes it)
	@$(PY) bench/instructions.py --build $(BUILD) $(if $(UPDATE),--update)

bench-replay: build ## a trace replay against several clients (TRACE=file.jsonl for a real one)
	@$(RUN_ENV) $(PY) bench/trace_replay.py $(if $(TRACE),--trace "$(TRACE)")

soak: build ## for SOAK_SECONDS (default 600): half a replayed trace, every byte verified, half the history test with faults; then 200 kills of the master
	@$(RUN_ENV) $(PY) bench/trace_replay.py --seconds $$(( ($(SOAK_SECONDS) + 1) / 2 )) $(if $(TRACE),--trace "$(TRACE)")
	@$(RUN_ENV) $(PY) -m tests.history --seconds $$(( $(SOAK_SECONDS) / 2 ))
	@$(RUN_ENV) MCS_RESTARTS=200 $(PY) -m pytest -q tests/system/test_master_restart.py -k kill_9

wheel: deps ## dist/*.whl
	@$(PY) -m pip wheel --disable-pip-version-check --no-build-isolation --no-deps -w dist .

# The Python module is a wheel's to install: make wheel, pip install dist/*.whl.
install: build ## the daemons, libmcstore and its headers, units and sample files into PREFIX (default /usr/local), below DESTDIR
	@for component in master client service; do \
		DESTDIR="$(DESTDIR)" cmake --install $(BUILD) --prefix $(PREFIX) --component $$component; \
	done

clean: ## remove the builds; keeps .venv
	@rm -rf build dist

distclean: clean ## remove everything that was made, .venv too
	@rm -rf $(VENV)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
