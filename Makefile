# Everything a person or CI runs. `make help` lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
XMANAGER_VENV ?= .venv-xmanager
DEMO_DATA ?= data/demo
DEMO_RUN ?= runs/demo
ACTORS_DATA ?= data/demo_actors
COFINETUNE_RUNS ?= runs/demo_cofinetune
RELATIONS_DATA ?= data/demo_relations
MULTITRAIN_RUNS ?= runs/demo_multitrain
TUBES_DATA ?= data/demo_tubes
TUBEVIT_RUNS ?= runs/demo_tubevit
SCENES_DATA ?= data/demo_scenes
UNIFORMERV2_RUNS ?= runs/demo_uniformerv2
VIVIT_DATA ?= data/ablations_vivit
COFINETUNING_DATA ?= data/ablations_cofinetuning
ABLATIONS ?= runs/ablations
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help install demo demo-cofinetune demo-multitrain demo-tubevit demo-uniformerv2 ablations-vivit ablations-cofinetuning test test-xmanager lint types format lock benchmark clean

help:  ## Show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /	/' | expand -t 26

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Tubelet needs Python 3.11 or newer, not " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	@echo "Installing the pinned dependencies into $(VENV) (one to three minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

install: $(STAMP)  ## Make the virtual environment with the pinned dependencies

demo: $(STAMP)  ## Make a small video dataset, train a small ViViT on it, evaluate it (about 2 minutes)
	$(BIN)/python -m tools.make_demo_data --out=$(DEMO_DATA)
	$(BIN)/python main.py --config=configs/vivit/demo.py --workdir=$(DEMO_RUN) --config.datasets.demo.dir=$(DEMO_DATA)

demo-cofinetune: $(STAMP)  ## Compare co-finetuning on two small datasets with transfer learning
	$(BIN)/python -m benchmarks.cofinetuning --data=$(ACTORS_DATA) --out=$(COFINETUNE_RUNS)

demo-multitrain: $(STAMP)  ## Train on three small datasets at once, with MultiTrain's losses and without
	$(BIN)/python -m benchmarks.multitrain --data=$(RELATIONS_DATA) --out=$(MULTITRAIN_RUNS)

demo-tubevit: $(STAMP)  ## Train on small clips alone, and on clips and images jointly
	$(BIN)/python -m benchmarks.tubevit --data=$(TUBES_DATA) --out=$(TUBEVIT_RUNS)

demo-uniformerv2: $(STAMP)  ## Arm a small image ViT for video with global blocks and with local ones
	$(BIN)/python -m benchmarks.uniformerv2 --data=$(SCENES_DATA) --out=$(UNIFORMERV2_RUNS)

ablations-vivit: $(STAMP)  ## Train ViViT's Tables 1 to 3 in small, three seeds
	$(BIN)/python -m tools.sweep --sweep=sweeps/vivit.py --data=$(VIVIT_DATA) --out=$(ABLATIONS)_vivit --parallel=2

ablations-cofinetuning: $(STAMP)  ## Train co-finetuning's Tables 1 to 4 in small, three seeds
	$(BIN)/python -m tools.sweep --sweep=sweeps/cofinetuning.py --data=$(COFINETUNING_DATA) \
	  --out=$(ABLATIONS)_cofinetuning --parallel=2

test: $(STAMP)  ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-xmanager:  ## Test the XManager launcher in an environment of its own: the package pins other versions
	$(PYTHON) -m venv $(XMANAGER_VENV)
	$(XMANAGER_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  -r requirements-xmanager.lock
	$(XMANAGER_VENV)/bin/python -m pytest --noconftest -p no:cacheprovider tests/train_lib/test_sweep_xmanager.py

lint: $(STAMP)  ## Check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)  ## Check types, strictly in train_lib and datasets
	$(BIN)/mypy

format: $(STAMP)  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: $(STAMP)  ## Measure the loop's own overhead and what reading a clip costs
	$(BIN)/python -m benchmarks.loop_overhead
	$(BIN)/python -m benchmarks.input_pipeline

lock: $(STAMP)  ## Pin the newest versions that pyproject.toml allows
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal -p 3.11 --no-emit-index-url \
	  --no-emit-find-links --no-annotate --no-header --upgrade -o requirements.lock
	printf '%s\n' absl-py pytest 'google-cloud-bigquery>=3' 'xmanager>=0.8.5' | \
	  $(BIN)/uv pip compile - --universal -p 3.11 --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
	  --upgrade -o requirements-xmanager.lock

clean:  ## Remove the virtual environment, caches, the demo's data and its run
	rm -rf $(VENV) $(XMANAGER_VENV) .pytest_cache .mypy_cache .ruff_cache $(DEMO_DATA) $(DEMO_RUN) $(ACTORS_DATA) $(COFINETUNE_RUNS) \
	  $(RELATIONS_DATA) $(MULTITRAIN_RUNS) $(TUBES_DATA) $(TUBEVIT_RUNS) $(SCENES_DATA) \
	  $(UNIFORMERV2_RUNS) $(VIVIT_DATA) $(COFINETUNING_DATA) $(ABLATIONS)_vivit $(ABLATIONS)_cofinetuning
