# make help lists the targets. Variables: PYTHON (python3), TORCH (what to install), ARGS (options of a command).

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
PY := $(VENV)/bin/python
SOURCES := pyproject.toml setup.py $(shell find csrc -type f)

.PHONY: help train test bench lint gpu clean

help:                ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/ -/'

train: $(VENV)/installed  ## set everything up and train ResNet-50 on the embedded images
	$(PY) -m airank_fast.train resnet50 --amp $(ARGS)

test: lint           ## lint and the whole test suite
	$(PY) -m pytest $(ARGS)

lint: $(VENV)/installed   ## ruff
	$(PY) -m ruff check .

$(VENV)/torch: Makefile
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install "$(TORCH)" "setuptools>=77" ninja numpy
	touch $@

$(VENV)/installed: $(VENV)/torch $(SOURCES)
	$(PY) -m pip install --no-build-isolation -e ".[test,dali]"
	touch $@

clean:               ## remove what was built (the environment stays)
	rm -rf build *.egg-info airank_fast/*.so
