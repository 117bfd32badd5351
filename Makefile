# Every target does its own set-up in .venv; nothing is needed but Python >= 3.11 with venv, and a package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MEDEXP := $(BIN)/medexp
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test soak check format bench bench-loaders bench-storage bench-models bench-post bench-matching bench-sweep disturbed \
  tour pictures report-pictures reproducibility verdict clean

help:  ## list the targets
	@grep -hE '^[a-z_-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z_-]+):.*## /  \1\t/' | expand -t 20

install: $(INSTALLED)  ## make .venv and install medexp with its development tools

$(INSTALLED): pyproject.toml constraints.txt
	@begin=$$(date +%s); \
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	$(BIN)/pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,demo]' && \
	echo "installed in $$(( $$(date +%s) - begin )) s" && touch $@

demo: $(INSTALLED)  ## compare Dice and focal loss over three seeds on generated images, on a CPU in minutes
	@begin=$$(date +%s); \
	$(MEDEXP) train -m experiments/quickstart.yaml loss=dice,focal seed=0..2 && \
	$(MEDEXP) compare quickstart --by loss && \
	echo "demo took $$(( $$(date +%s) - begin )) s; look at" && \
	ls -1 runs/quickstart/comparison/* "runs/quickstart/loss=dice,seed=0"/overlays/*

# Tests start many processes, each of which would compile the package again where the environment forbids to keep bytecode.
test: $(INSTALLED)  ## run the tests, one process a core (warnings are errors)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "not soak"

soak: $(INSTALLED)  ## run the tests that take too long for every change
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal -m soak

check: $(INSTALLED)  ## format, lint, types, layers, docstrings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pydoclint --quiet medexp

bench: $(INSTALLED)  ## time a training step against a plain script (ROOT=folder of MSD Task04)
	$(BIN)/python tests/bench/train_step.py $(if $(ROOT),--root $(ROOT))

bench-loaders: $(INSTALLED)  ## time the loading of patches beside nnU-Net, TorchIO and MONAI, as far as they are installed
	$(BIN)/python tests/bench/loaders.py

bench-storage: $(INSTALLED)  ## time reading patches from npy, blosc2 and zarr, as far as they are installed
	$(BIN)/python tests/bench/storage.py

bench-post: $(INSTALLED)  ## time post-processing of masks beside MONAI
	$(BIN)/python tests/bench/post_processing.py

bench-matching: $(INSTALLED)  ## time matching instances beside stardist, if it is installed
	$(BIN)/python tests/bench/matching.py

bench-models: $(INSTALLED)  ## measure every dense network of conf/model and write docs/models.md
	$(BIN)/python tests/bench/models.py

bench-sweep: $(INSTALLED)  ## time what a sweep costs beside the training, once and for each job
	$(BIN)/python tests/bench/sweep.py

disturbed: $(INSTALLED)  ## kill jobs and the sweep of a study, and compare with the same left alone (MEDEXP_DATA=FOLDER)
	$(BIN)/python tests/bench/disturbed.py launcher.n_jobs=2

tour: $(INSTALLED)  ## train every task of experiments/tour and write docs/tour.md
	$(BIN)/python tests/bench/tour.py

pictures: $(INSTALLED)  ## draw docs/pictures on generated images, the page with Chromium
	$(BIN)/python tests/bench/pictures.py

report-pictures: $(INSTALLED)  ## take docs/pictures/report_*.png from the report of a study with Chromium (STUDY=folder)
	$(BIN)/python tests/bench/report_pictures.py $(STUDY)

reproducibility: $(INSTALLED)  ## say what is bitwise reproducible on this machine
	$(BIN)/python tests/bench/reproducibility.py

verdict: $(INSTALLED)  ## simulate how often medexp compare errs and write the tables of docs/comparing.md
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/verdict.py

format: $(INSTALLED)  ## format the code
	$(BIN)/ruff format .

clean:  ## remove caches of the tools
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist
