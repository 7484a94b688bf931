# The table of contents of the work. Everything runs in .venv, which is made on first use.

PYTHON ?= python3
BENCH ?= ../shared/data/bench
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check lint types format bench clean
.DELETE_ON_ERROR:

demo: .venv/installed  ## enlarge a photograph four times with the model that ships
	.venv/bin/srcli upscale examples/photos/astronaut.png -o demo/astronaut_x4.png --overwrite
	.venv/bin/python examples/bicubic.py examples/photos/astronaut.png demo/astronaut_bicubic_x4.png
	@echo "The enlarged photograph: demo/astronaut_x4.png"
	@echo "Bicubic beside it:       demo/astronaut_bicubic_x4.png"

test: .venv/installed-dev  ## the whole suite
	.venv/bin/python -m pytest

check: lint types test  ## everything that must hold before a commit

lint: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/installed-dev
	.venv/bin/mypy

format: .venv/installed-dev  ## put the code in order
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: .venv/installed  ## the table of results; BENCH=folder with Set5, Set14, BSD100
	.venv/bin/python benchmarks/quality.py $(BENCH) --features 4

clean:
	rm -rf .venv demo build *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable .
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable ".[dev]"
	touch .venv/installed $@
