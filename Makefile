# `make demo` and `make test` are the two commands to know; both set everything up.
# Each stack has an environment of its own: STACK=openmmlab is mmcv 2.1.0 and its kin,
# STACK=torch the lowest supported torch without MMDetection.
PYTHON ?= python3
STACK ?= onedl
RUN := .venv$(patsubst %,-%,$(filter-out onedl,$(STACK)))/bin/python
TESTS := $(if $(filter torch,$(STACK)),--torch-only)

.DEFAULT_GOAL := help
.PHONY: setup demo test lint format clean help

setup:  ## make .venv with everything needed (PYTHON=python3.12, STACK=openmmlab)
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed: apt install python3 python3-venv python3-dev, or name another: make setup PYTHON=..." >&2; exit 1; }
	@$(PYTHON) tools/setup_env.py "$(STACK)"

ifeq ($(STACK),torch)
demo:
	@echo "error: the demo trains a detector, which torch alone cannot: leave STACK=torch out" >&2; exit 1
else
demo: setup  ## train and evaluate a detector on real images, on the CPU
	$(RUN) tools/demo/run.py
endif

test: lint  ## lint and every test, in two processes
	$(RUN) -m pytest -q -n 2 --dist loadfile $(TESTS)

lint: setup  ## check style
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: setup  ## put the code into the project's style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:  ## remove caches and build products; environments, data, results stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find odconv_det tools tests configs -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## list these commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 16
