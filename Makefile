# Everything runs in a virtual environment that these targets make. Needs Python 3.11 or newer, and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: serve test check unit docs bench clean

serve: $(VENV)/.serve          ## set up and serve on http://127.0.0.1:8000
	$(BIN)/python api_server.py

test: $(VENV)/.dev             ## set up and run every check and test
	$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(VENV)/.dev            ## formatting, lint, types, generated pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m docs.generate --check
	$(BIN)/python -m bench.table --check README.md bench/README.md

docs: $(VENV)/.dev             ## write the generated pages again
	$(BIN)/python -m docs.generate
	$(BIN)/python -m bench.table --write README.md bench/README.md

bench: $(VENV)/.dev            ## the figures that the README quotes
	$(BIN)/python -m bench.ttfb
	$(BIN)/python -m bench.throughput
	$(BIN)/python -m bench.overhead

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.serve: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,clients]'
	touch $@ $(VENV)/.serve

clean:
	rm -rf $(VENV) build dist artifacts *.egg-info
