# Every target sets up .venv first where it needs it.
#   make PYTHON=python3.11 ...   set up with this interpreter, not the first suitable one
#   make CXX=clang++ ...         build Detectron2 with this C++ compiler

SUITABLE := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for python in python3.12 python3.11 python3.10 python3; do \
	$$python -c '$(SUITABLE)' 2> /dev/null && echo $$python && break; done)
ifeq ($(origin CXX),default)
CXX = $(firstword $(foreach name,c++ g++ clang++,$(shell command -v $(name) 2> /dev/null)))
endif

PY := .venv/bin/python
REQUIREMENTS := requirements.txt requirements-detectron2.txt
# Written at the end of the set-up: the requirements that .venv was made from.
INSTALLED := .venv/installed.txt
QUICK_START := --config-file quick_start/free_anchor

.PHONY: help venv quick-start test lint format docs wheel clean check-machine set-up

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

venv: ## set up .venv: the pinned requirements, Detectron2 and this package
	@cat $(REQUIREMENTS) | cmp -s - $(INSTALLED) || $(MAKE) --no-print-directory set-up

quick-start: datasets/shapes/val.json | venv ## train, evaluate and draw a small FreeAnchor model
	$(PY) -m anchor_heads train $(QUICK_START) --output output/quick_start --force
	$(PY) -m anchor_heads show-detections $(QUICK_START) --force \
		--weights output/quick_start/model_final.pth --output output/quick_start/detections.png

test: | venv ## run the tests
	$(PY) -m pytest

lint: | venv ## check the code and its format with ruff
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: | venv ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: | venv ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet && echo "Open site/index.html, or run .venv/bin/mkdocs serve"

wheel: | venv ## build the wheel into dist/
	rm -rf build
	$(PY) -m pip wheel . --no-deps --no-build-isolation --wheel-dir dist

clean: ## remove .venv, builds and caches; datasets/ and output/ stay
	rm -rf .venv build dist site *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The annotations of the last split: they are written after everything else.
datasets/shapes/val.json: anchor_heads/data/shapes.py | venv
	$(PY) -m anchor_heads.data.shapes datasets/shapes
	@touch $@

# Says all that is missing, before anything is downloaded.
check-machine:
	@python='$(PYTHON)'; cxx='$(CXX)'; complete=yes; \
	missing() { echo "Missing: $$1" >&2; complete=no; }; \
	if test -z "$$python"; then \
		missing 'Python 3.10, 3.11 or 3.12. Install one, or name it: make PYTHON=/path/to/python3.11'; \
	elif ! $$python -c '$(SUITABLE)' 2> /dev/null; then \
		missing "Python 3.10, 3.11 or 3.12: PYTHON=$$python is none, or does not run."; \
	else \
		$$python -c 'import ensurepip, venv' 2> /dev/null || \
			missing "the venv module of $$python (Debian and Ubuntu: python3-venv)."; \
		headers=$$($$python -c 'import sysconfig; print(sysconfig.get_path("include"))'); \
		test -f "$$headers/Python.h" || \
			missing "the C headers of $$python, to build Detectron2 (Debian and Ubuntu: python3-dev)."; \
	fi; \
	git --version > /dev/null 2>&1 || \
		missing 'git, to get Detectron2.'; \
	test -n "$$cxx" && echo 'int main() {}' | $$cxx -std=c++20 -x c++ -o /dev/null - 2> /dev/null || \
		missing "a C++ compiler for C++20, to build Detectron2$${cxx:+: $$cxx is none}."; \
	test $$complete = yes

# Detectron2's own build sees .venv's torch and ninja. It is never taken from pip's cache, where it
# may be built for another torch. With a GPU its CUDA kernels are built as well; where the CUDA
# toolkit does not fit torch they are left out, since nothing here needs them.
DETECTRON2 := PATH="$(CURDIR)/.venv/bin:$$PATH" CXX='$(CXX)' \
	MAX_JOBS=$${MAX_JOBS:-$$(getconf _NPROCESSORS_ONLN)} \
	$(PY) -m pip install --no-cache-dir --no-build-isolation -r requirements-detectron2.txt

set-up: check-machine
	@if test -L .venv; then echo '.venv is a link: set up the environment where it leads to' >&2; exit 1; fi
	$(PYTHON) -m venv --clear .venv
	$(PY) -m pip install -r requirements.txt
	$(DETECTRON2) || { $(PY) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' && \
		CUDA_VISIBLE_DEVICES= $(DETECTRON2); }
	$(PY) -m pip install --no-deps --no-build-isolation --editable .
	$(PY) -c 'import torch, detectron2._C'
	@cat $(REQUIREMENTS) > $(INSTALLED)
