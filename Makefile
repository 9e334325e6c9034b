# make demo    the library's main job on real photographs: a table and demo.png
# make test    the tests
# make docs    generated blocks and the documentation site, into site/html
# make look    the site as it is built, in Chromium: widths, formulas, colours, console, search
# make bench   the benchmarks, with their gates
# make gpu     on a machine with a GPU: build, tests, compute-sanitizer, benchmarks (elsewhere: make gpu GPU=--rehearse)
# make notebooks    run the notebooks and compare them with what is stored
# make dist    the source distribution and, from it, a wheel for this machine, into dist/
# make wheels  the wheels of a release (cibuildwheel, in containers), into wheelhouse/
# Variables: PYTHON=python3 (interpreter of the virtual environment), TORCH=torch==2.13.0 (what pip is asked for),
#            NOVENV=1 (use PYTHON as it is; it must already have torch and the dev extra, for bench that one too).
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv

ifdef NOVENV
BIN := $(dir $(shell command -v $(PYTHON)))
READY :=
PEERS :=
else
BIN := $(VENV)/bin/
READY := $(VENV)/.built
PEERS := $(VENV)/.peers
endif

GPU ?=

.PHONY: install demo test check bench gpu docs look notebooks dist wheels format clean

install: $(READY)

$(VENV)/.ready: pyproject.toml setup.py build_tools/backend.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check '$(TORCH)'
	$(VENV)/bin/pip install -q --disable-pip-version-check -e '.[dev]'
	$(VENV)/bin/pip install -q --disable-pip-version-check --no-deps 'k-diffusion>=0.1.1' # which asks for what it trains with
	touch $@

# The installation has built the extension; again where csrc was changed since.
$(VENV)/.built: $(wildcard csrc/*) | $(VENV)/.ready
	if [ -n "$$(find csrc -newer $(VENV)/.ready)" ]; then $(BIN)python setup.py -q build_ext --inplace; fi
	touch $@

demo: $(READY)
	$(BIN)python -m spectral_pd demo --figure demo.png

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)python -m pytest -n 2

check: $(READY)
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)mypy
	$(BIN)clang-format --dry-run -Werror csrc/*.* tests/*.cpp tests/emu/*
	$(BIN)python benchmarks/write_docs.py --check

$(VENV)/.peers: $(VENV)/.ready
	$(VENV)/bin/pip install -q --disable-pip-version-check -e '.[bench]'
	touch $@

bench: $(READY) $(PEERS)
	$(BIN)python benchmarks/kernels.py --check
	$(BIN)python benchmarks/kernels.py --threads 2
	$(BIN)python benchmarks/spectra_throughput.py --check
	$(BIN)python benchmarks/same_seed.py
	$(BIN)python benchmarks/multistep_history.py

gpu: $(READY)
	$(BIN)python build_tools/gpu.py $(GPU)

docs: $(READY)
	$(BIN)python benchmarks/write_docs.py
	$(BIN)python build_tools/architecture.py
	$(BIN)python -m sphinx -W --keep-going -q -b html -d site/doctrees docs site/html

look: $(READY)
	$(BIN)python build_tools/site_check.py

notebooks: $(READY)
	$(BIN)python build_tools/notebooks.py --jobs 2

dist: $(READY)
	$(BIN)python -m build --no-isolation --skip-dependency-check

wheels: $(READY)
	$(BIN)python -m cibuildwheel --output-dir wheelhouse

format: $(READY)
	$(BIN)ruff check --fix .
	$(BIN)ruff format .
	$(BIN)clang-format -i csrc/*.* tests/*.cpp tests/emu/*

clean:
	rm -rf $(VENV) build dist site wheelhouse *.egg-info
