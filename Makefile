# Everything runs in .venv, which `make env` fills; every target sets up what it needs.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip

# `make env CONSTRAINTS=/dev/null` takes any version that requirements.txt allows.
CONSTRAINTS ?= constraints.txt

# Where torch and torchvision come from: a package index, by the URL that pytorch.org names for a
# CUDA; empty: the versions of constraints.txt. What was chosen last stays chosen.
LAST_TORCH_INDEX := $(strip $(shell cat $(VENV)/.torch-index 2>/dev/null))
TORCH_INDEX ?= $(LAST_TORCH_INDEX)
ifneq ($(and $(TORCH_INDEX),$(if $(findstring /,$(TORCH_INDEX)),,none)),)
$(error TORCH_INDEX=$(TORCH_INDEX): give the whole URL, as pytorch.org names it after --index-url)
endif
# Then constraints.txt counts without torch and what belongs to its CUDA.
OF_TORCH := ^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==
HELD := $(if $(TORCH_INDEX),$(VENV)/.constraints.txt,$(CONSTRAINTS))

# Where detectron2 comes from, `index` or `source`; what was chosen last stays chosen. At first it is
# the source where its CUDA code can be compiled: a GPU, nvcc and a C++ compiler are there.
LAST_DETECTRON2 := $(patsubst $(VENV)/.ready-%,%,$(firstword $(wildcard $(VENV)/.ready-*)))
ifeq ($(origin DETECTRON2),undefined)
DETECTRON2 := $(or $(LAST_DETECTRON2),$(shell nvidia-smi -L >/dev/null 2>&1 \
  && { command -v nvcc || [ -x "$${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; } >/dev/null \
  && command -v "$${CXX:-c++}" >/dev/null && echo source || echo index))
endif
DETECTRON2_COMMIT := a59f05630a8f205756064244bf5beb8661f96180
DETECTRON2_SOURCE := git+https://github.com/facebookresearch/detectron2.git@$(DETECTRON2_COMMIT)
ifeq ($(filter index source,$(DETECTRON2)),)
$(error DETECTRON2=$(DETECTRON2): choose index or source)
endif

REQUIREMENTS := requirements.txt requirements-laptop.txt requirements-app.txt requirements-export.txt \
  requirements-dev.txt requirements-no-deps.txt constraints.txt
STAMP := $(VENV)/.ready-$(DETECTRON2)

DEMO_CONFIG := projects/GridCLIP/configs/lvis/gridclip_r50_ov_smoke.py
DEMO_OUTPUT := output/demo_photographs

# What `make demo` looks for at the end, between commas; its own choice if empty.
WORDS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env check-env test lint demo app demo-photographs photographs reproduce compare-speed FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  Settings: PYTHON=python3.11 (for a new .venv), DETECTRON2=index|source,'
	@echo '  TORCH_INDEX=URL (torch for an older GPU or driver: the index that pytorch.org names for'
	@echo '  your CUDA), CONSTRAINTS=/dev/null (untested versions), DETECTRON2_DATASETS=folder,'
	@echo '  WORDS="red star, green fish" (for demo).'

env: $(STAMP) ## install everything into .venv

check-env: env ## print what is installed, what fits this machine, which data are there
	$(PY) scripts/check_env.py

test: env ## run all tests, on all cores
	$(VENV)/bin/pytest tests -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0

lint: env ## check style, formatting, the direction of imports, and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/mypy

demo: env ## data, training, evaluation and a report in minutes: output/demo/report.html
	$(PY) -m laptop_world.demo $(if $(WORDS),--words '$(WORDS)')

reproduce: env ## run all variants with all seeds on the laptop world, hours; goes on after a kill
	$(PY) -m laptop_world.reproduce
	$(PY) -m laptop_world.reproduce --lengths
	$(PY) -m laptop_world.reproduce --publish
	$(PY) scripts/update_results_tables.py

compare-speed: env ## time GridCLIP beside ViLD, FCOS and Faster R-CNN: output/speed.json, .png
	$(PY) scripts/compare_speed.py --json output/speed.json

app: env ## a page to try a detector on, in the browser; the demo's, made first if missing
	$(PY) projects/GridCLIP/app.py

demo-photographs: photographs env ## the production model, a few steps on DETECTRON2_DATASETS
	$(PY) projects/GridCLIP/train_net.py --config-file $(DEMO_CONFIG) train.output_dir=$(DEMO_OUTPUT)
	$(PY) scripts/visualize.py results $(DEMO_OUTPUT)

photographs:
	@for name in lvis_v1_train lvis_v1_val; do \
	  file="$${DETECTRON2_DATASETS:-datasets}/lvis/$$name.json"; \
	  [ -f "$$file" ] || { echo "make demo-photographs: $$file is missing: see datasets/README.md" >&2; exit 1; }; \
	done

$(PY):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("GridCLIP needs Python 3.11 \
	or newer; $(PYTHON) is " + sys.version.split()[0] + ". Try: make env PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(VENV)

# Another index of torch: everything is looked at anew.
ifneq ($(TORCH_INDEX),$(LAST_TORCH_INDEX))
$(STAMP): FORCE
endif
FORCE:

# The no-deps wheels go through --target, the only way pip takes detectron2's cp310 wheel on another
# Python. --target neither replaces nor removes, hence the uninstalling first.
$(STAMP): $(REQUIREMENTS) pyproject.toml Makefile | $(PY)
	rm -f $(VENV)/.ready-*
ifneq ($(TORCH_INDEX),$(LAST_TORCH_INDEX))
	$(PIP) uninstall --yes torch torchvision
endif
	echo '$(TORCH_INDEX)' > $(VENV)/.torch-index
	$(PIP) install --upgrade -c $(CONSTRAINTS) pip 'setuptools<81' wheel
ifneq ($(TORCH_INDEX),)
	grep -E '^torch(vision)?[<>=]' requirements.txt | $(PIP) install --index-url '$(TORCH_INDEX)' -r /dev/stdin \
	  || { echo "$(TORCH_INDEX) has no torch that requirements.txt allows: pytorch.org names the URL for your CUDA" >&2; exit 1; }
	sed -E '/$(OF_TORCH)/d' $(CONSTRAINTS) > $(HELD)
	$(PIP) list --format=freeze | grep -E '^torch(vision)?==' >> $(HELD)
endif
	$(PIP) install --no-warn-conflicts -c $(HELD) -r requirements.txt -r requirements-dev.txt \
	  || { echo "If $(CONSTRAINTS) does not fit this platform: make env CONSTRAINTS=/dev/null" >&2; exit 1; }
	$(PIP) uninstall --yes lvis detectron2 sal-detectron2 trackers
	grep $(if $(filter source,$(DETECTRON2)),-v '^sal-detectron2',.) requirements-no-deps.txt \
	  | $(PIP) install --no-deps --require-hashes --only-binary=:all: \
	    --python-version 3.10 --implementation cp --abi none --platform any \
	    --target "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	    -r /dev/stdin
ifeq ($(DETECTRON2),source)
	$(PIP) install --no-build-isolation --no-deps $(DETECTRON2_SOURCE) \
	  || { echo "detectron2's source could not be fetched or compiled: make env DETECTRON2=index" >&2; exit 1; }
endif
	$(PIP) install --no-build-isolation --no-deps -e .
	touch $@
