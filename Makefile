# `make help` lists the targets. Variables:
#   PYTHON=python3          any Python from 3.10 on
#   TORCH="torch==2.13.0"   arguments of pip, e.g. TORCH="torch==2.12.1 --index-url https://download.pytorch.org/whl/cu130"
#   ARGS="--seed 3"         more options for the target's command

PYTHON ?= python3
TORCH ?= torch==2.13.0
# Resolved before the environment's own programs (ninja, cmake) are put first on PATH.
override PYTHON := $(or $(shell command -v $(PYTHON)),$(PYTHON))
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
PY := $(VENV)/bin/python
# pip would compile every Python file; Python compiles those that are imported, once.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(PY) -m pip --disable-pip-version-check install --no-compile
# torch's version of CUDA, empty for none, without the seconds of importing it.
TORCH_CUDA := $(PY) -c 'from importlib.util import find_spec; from runpy import run_path; print(run_path(find_spec("torch").submodule_search_locations[0] + "/version.py")["cuda"] or "")'
# One file for each TORCH, so that another choice installs again.
TORCH_STAMP := $(VENV)/.torch-$(shell echo '$(TORCH)' | cksum | cut -d' ' -f1)
INSTALLED := $(VENV)/.installed
TEST_INSTALLED := $(VENV)/.test-installed
REHEARSE_INSTALLED := $(VENV)/.rehearse-installed
INFER_INSTALLED := $(VENV)/.infer-installed

.PHONY: help train train-bert infer rehearse test kernels bench lint gpu clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

train: $(INSTALLED) ## make the environment and train ResNet-50 on the images that come with the package
	$(PY) -m airank_fast.train resnet50 --amp $(ARGS)

train-bert: $(INSTALLED) ## the same environment, and BERT-mini pre-trained on the text that comes with Python
	$(PY) -m airank_fast.train bert-mini --amp $(ARGS)

infer: $(INFER_INSTALLED) ## the same environment, and every scenario of inference with ResNet-50 on those images: six minutes
	$(PY) -m airank_fast.infer resnet50 $(ARGS)

rehearse: $(REHEARSE_INSTALLED) ## a whole submission on embedded data, from training to packages; ARGS=--quick for less
	$(PY) -m airank_fast.rehearse $(ARGS)

# Two more than processors, as many tests wait.
WORKERS := $(PYTHON) -c 'import os; print(min(8, 2 + (os.cpu_count() or 1)))'

# Collecting compiles the tests' assertions, once and beside mypy; else each worker does so.
test: $(TEST_INSTALLED) ## the same environment, lint, and the whole test suite
	$(PY) -m pytest --collect-only -q $(ARGS) >/dev/null 2>&1 & $(MAKE) lint; status=$$?; wait; exit $$status
	OMP_WAIT_POLICY=passive $(PY) -m pytest -n $$($(WORKERS)) --dist=loadfile --no-loadscope-reorder $(ARGS)

kernels: $(TEST_INSTALLED) ## the CUDA kernels on a CPU, under sanitizers and NVRTC; make test then skips what passed, until they change
	$(PY) bench/suite.py --kernels --save

lint: $(TEST_INSTALLED) ## ruff: rules and format; mypy: types of the seams
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(TEST_INSTALLED) ## every benchmark; results go to bench/results
	$(PIP) "airank-fast[bench]"
	$(PY) bench/compare.py
	for bench in baselines picture_baselines word2vec click_step dssm_step convolution step memory data prepare criteo coco_ap bert transformer_step beam_search infer load measuring convergence; do $(PY) bench/$$bench.py --save $(ARGS) || exit 1; done

gpu: ## on a machine with a GPU, in the current Python and without network: RESULTS=DIR make gpu
	$(PYTHON) bench/gpu.py "$(RESULTS)" $(ARGS)

clean: ## remove the builds; the environment stays
	rm -rf build airank_fast.egg-info airank_fast/_C*.so airank_fast/_host*.so

$(TORCH_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "PYTHON: must be 3.10 or later, got " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	rm -f $(VENV)/.torch-* $(INSTALLED) $(VENV)/.*-installed
	$(PIP) $(TORCH)
	touch $@

# Where torch has CUDA and the machine a GPU but no toolkit, nvcc comes from PyPI's wheels of torch's CUDA version;
# setup.py finds it there. The wheels of CUDA 12 have no nvcc in them, so that one needs a toolkit.
define CUDA_COMPILER
cuda=$$($(TORCH_CUDA)); \
if [ -n "$$cuda" ] && nvidia-smi >/dev/null 2>&1 && [ -z "$$CUDA_HOME" ] && ! command -v nvcc >/dev/null && [ ! -x /usr/local/cuda/bin/nvcc ]; then \
  case $$cuda in \
  12.*) echo "CUDA kernels will not be built: torch with CUDA $$cuda must have a CUDA 12 toolkit, got none (PyPI has no nvcc 12)";; \
  *) $(PIP) $$(for part in cuda-nvcc nvvm cuda-crt cuda-cccl cuda-runtime; do echo "nvidia-$$part==$$cuda.*"; done);; \
  esac; \
fi
endef

$(INSTALLED): $(TORCH_STAMP) pyproject.toml setup.py $(shell find csrc -type f)
	$(PIP) "setuptools>=77,<82" ninja numpy pybind11
	@$(CUDA_COMPILER)
	case $$($(TORCH_CUDA)) in 12.*) dali=dali-cuda12;; *) dali=dali;; esac; \
	$(PIP) --no-build-isolation --editable ".[report,wikicorpus,$$dali]"
	$(PY) -m airank_fast.info
	touch $@

# The package is there, so that pip adds what the extra names and builds nothing again.
$(TEST_INSTALLED) $(REHEARSE_INSTALLED) $(INFER_INSTALLED): $(VENV)/.%-installed: $(INSTALLED)
	$(PIP) "airank-fast[$*]"
	touch $@
