# Common tasks. Everything runs in .venv, which is created on first use.

PYTHON ?= python3
BENCH ?= ../shared/data/bench
PIP = .venv/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check lint types format docs bench package clean
.DELETE_ON_ERROR:

demo: .venv/installed  ## upscale a photograph by 4
	@echo "Upscaling examples/photos/astronaut.png ..."
	.venv/bin/srcli upscale examples/photos/astronaut.png -o demo/astronaut_x4.png --overwrite
	.venv/bin/python examples/bicubic.py examples/photos/astronaut.png demo/astronaut_bicubic_x4.png
	@echo "The upscaled photograph:        demo/astronaut_x4.png"
	@echo "For comparison, with bicubic:   demo/astronaut_bicubic_x4.png"

test: .venv/installed-dev  ## run the test suite, on several cores
	.venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: lint types test  ## everything that must pass before a commit

lint: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/installed-dev
	.venv/bin/mypy

format: .venv/installed-dev  ## fix style and format the code
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs: .venv/installed-dev  ## build the documentation into site/
	.venv/bin/mkdocs build --strict --quiet

bench: .venv/installed  ## measure all models; BENCH=folder with Set5, Set14, BSD100
	.venv/bin/python benchmarks/quality.py $(BENCH) --features 4

package: .venv/bin/python  ## install the built wheel in clean environments, with each extra, and run it
	.venv/bin/python .ci/package.py

clean:
	rm -rf .venv demo build site *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/bin/python:
	@echo "Creating a virtual environment in .venv ..."
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing srcli and its dependencies into .venv (the first time, this downloads PyTorch and takes minutes) ..."
	$(PIP) --editable .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing srcli with its development dependencies into .venv (the first time, this takes minutes) ..."
	$(PIP) --editable ".[dev]"
	@touch .venv/installed $@
