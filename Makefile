# Darkroom. `make run` and `make test` set up everything they need on a fresh machine.

PYTHON ?= python3
VENV := .venv
ROWS ?= 1-39,44-52,101-139,146,225
ROUNDS ?= 3
JOBS ?= 200
MINUTES ?= 30
BESIDE ?= 1
SEED ?= 1
STORM_MINUTES = $(if $(filter file,$(origin MINUTES)),60,$(MINUTES))
TWO = --numprocesses 2 --dist loadfile
CHAOS = --rows $(ROWS) --rounds $(ROUNDS) --jobs $(JOBS) --minutes $(MINUTES) --beside $(BESIDE)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install run demo test test-newer lint check bench bench-all chaos storm fuzz lock sbom model model-quick weapons-head nightly clean gpu-check helm-check chaos-background bench-peers

help: ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Darkroom needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python cannot make a virtual environment: on Debian and Ubuntu install python3-venv."; exit 1; }

# install EXTRA,DOWNLOADS,DOWNLOADS WITH CUDA: pip prints each file with its size.
define install
	@echo "Installing into $(VENV), once: $(2) of downloads with PyTorch's CPU build, $(3) with its CUDA build. This takes some minutes."
	@begun=$$(date +%s); $(PIP) install --constraint constraints.txt --editable '.[$(1)]' && \
	echo "Installed in $$(( $$(date +%s) - begun )) s: $(VENV) takes $$(du -sh $(VENV) | cut -f 1) of disk."
endef

$(VENV)/.embedded: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,embedded,0.3 GB,2.8 GB)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,dev,0.5 GB,3 GB)
	@touch $@ $(VENV)/.embedded

install: $(VENV)/.dev ## everything, for development, into .venv

run: $(VENV)/.embedded ## start the platform, make a picture, serve until Ctrl-C
	@$(BIN)/darkroom up

demo: $(VENV)/.embedded ## make a picture and end
	@$(BIN)/darkroom up --once

test: $(VENV)/.dev ## all tests, with private RabbitMQs and Redises, on two processes: half of it is waiting
	@$(BIN)/python -m cli.services
	$(BIN)/python -m pytest $(TWO)

test-newer: $(VENV)/.dev ## the suites that depend on them on newer brokers, stores and the images' Python (as root, 2 GB into .cache)
	@$(BIN)/python -m cli.services
	$(BIN)/python -m tests.newer

lint: $(VENV)/.dev ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint ## lint, then all tests with coverage
	@$(BIN)/python -m cli.services
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report

helm-check: $(VENV)/.dev ## the chart: lint, renders, schemas, policy, alerts, and the release run as rendered
	@$(BIN)/python -m cli.services
	@$(BIN)/python -m tests.helm.tools
	$(BIN)/python -m pytest $(TWO) tests/helm

bench: $(VENV)/.dev ## what this machine can carry: platform up, load, report (minutes)
	@$(BIN)/python -m cli.services
	$(BIN)/darkroom bench --json benchmarks/results/load.json --html benchmarks/results/load.html

BENCHMARKS := latency batching policy fairness neighbours steps engine encode api fidelity validation depth plan safety search_index search similar moderation_prompts moderation_pictures moderation_attempts moderation_cost

bench-all: bench ## all benchmarks, into benchmarks/results
	@for name in $(BENCHMARKS); do \
	  $(BIN)/python -m benchmarks.$$name --json benchmarks/results/$$name.json --html benchmarks/results/$$name.html || exit 1; \
	done

bench-peers: $(VENV)/.dev ## beside LitServe, Ray Serve, BentoML, Mosec, celery-batches (installs them into .cache, 7 GB; an hour)
	@$(BIN)/python -m cli.services
	$(BIN)/python -m benchmarks.peers --json benchmarks/results/peers.json --html benchmarks/results/peers.html

gpu-check: $(VENV)/.dev ## on a machine with a GPU: what the engine gets from it, as a table (ten minutes)
	$(BIN)/python -m benchmarks.gpu_check --json .cache/gpu-check.json --html .cache/gpu-check.html

chaos: $(VENV)/.dev ## kill things while jobs run, again and again: ROWS=1-12 ROUNDS=50 JOBS=200 (ROWS=41 MINUTES=30)
	@$(BIN)/python -m cli.services
	$(BIN)/python -m tests.faults $(CHAOS)

chaos-background: $(VENV)/.dev ## the same for hours, with its log in .cache/chaos; goes on where it was stopped; BESIDE=2 on two cores
	@$(BIN)/python -m cli.services
	@mkdir -p .cache/chaos
	@nohup nice -n 10 $(BIN)/python -m tests.faults $(CHAOS) >> .cache/chaos/output.log 2>&1 & \
	echo "Started as process $$!; see .cache/chaos/output.log"

storm: $(VENV)/.dev ## requests at random against the embedded platform, both models, for an hour: MINUTES=60 SEED=1
	$(BIN)/python -m tests.storm --minutes $(STORM_MINUTES) --seed $(SEED)

fuzz: $(VENV)/.dev ## schemathesis and 100,000 odd bodies against a running API, at length
	DARKROOM_FULL=1 $(BIN)/python -m pytest tests/faults_api/test_fuzz.py -s

lock: $(VENV)/.dev ## what the images install, with hashes, into docker/locks, and the licences of it (asks the package index)
	$(BIN)/python docker/lock.py
	$(BIN)/python docker/licences.py

sbom: $(VENV)/.dev ## what is in each image, as CycloneDX, into dist: EXTRAS=s3
	$(BIN)/python docker/sbom.py $(EXTRAS)

model: $(VENV)/.dev ## train the embedded models again from nothing (hours; resumes)
	$(BIN)/python -m models.recipe

model-quick: $(VENV)/.dev ## a short pass of every training stage
	$(BIN)/python -m models.recipe --quick --no-resume

weapons-head: $(VENV)/.dev ## train the picture head of weapons again, after the embedded models have changed (minutes)
	rm -rf .cache/emoji/weapons
	$(BIN)/python -m models.recipe.weapons .cache/emoji/weapons
	$(BIN)/darkroom moderation fit-pictures .cache/emoji/weapons --category weapons --clip models/emoji-clip \
	  --out moderation/heads/weapons.pictures.json

nightly: test-newer model-quick chaos storm fuzz ## what is too long for every change

clean: ## remove the environment, caches and the platform's data
	rm -rf $(VENV) .cache .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
