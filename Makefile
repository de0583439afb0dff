# Every target that runs something sets up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# Each experiment's target and script, in the order in which they find as much as possible of what they need.
EXPERIMENTS := table4=ablation_table4 start=ablation_start table5=ablation_table5 rivals=rivals table1=table1_activitynet \
    table2=table2_charades \
    table3=table3_crosstask thumos-hacs=table_supplement_thumos_hacs gebd=gebd depth=ablation_depth \
    ablation-statistics=ablation_statistics ablation-readout=ablation_readout ablation-snippets=ablation_snippets \
    figure2=figure2_synthesis figure4=figure4_feature_difference figure5=figure5_qualitative all-tables=all_tables sweep=sweep_boundaries
TARGETS := $(foreach pair,$(EXPERIMENTS),$(firstword $(subst =, ,$(pair))))

.PHONY: calibrate demo setup dev docs lint types test test-fast test-slow test-all faults fuzz ui layout clean help $(TARGETS)

help:
	@echo "make demo                        a rendered video, what the small model that comes with bsp finds in it, and the page"
	@echo "make TARGET [ARGS='--seeds 3 --profile mini']   one experiment on the embedded data:"
	@echo "  table1 G-TAD, R18 and R50      table2 video grounding       table3 step localisation"
	@echo "  table4 pretext tasks           table5 fusion methods        thumos-hacs the supplement's data sets"
	@echo "  rivals other pretexts          gebd   event boundaries      depth  R18, R34, R50"
	@echo "  start  image start weights     figure2 figure4 figure5"
	@echo "make all-tables [ARGS=...]       all of them, and results/REPORT.md"
	@echo "make sweep [ARGS=...]            search over boundary settings (epsilon, gamma, tau, stride, kinds, fusion)"
	@echo "make calibrate [ARGS=...]        a trial of the embedded world's difficulty (docs/calibration.md)"
	@echo "make test                        the tests, but for some that take a minute or more each"
	@echo "make test-fast                   under a minute of them: no Ray, no servers, nothing long"
	@echo "make test-slow                   those tests alone; make test-all: all tests"
	@echo "make faults                      the tests that break something, and the fault matrix"
	@echo "make fuzz [ARGS=...]             mutated files of every kind: --count 2000, --seed 0, --kind npy (docs/datasets.md)"
	@echo "make docs                        the site: build/site/index.html"
	@echo "make layout                      the order of imports, drawn: docs/import_order.svg"
	@echo "make dev                         .venv with what developers need (CONTRIBUTING.md)"
	@echo "make lint, make types            ruff; mypy (strict for bsp/)"
	@echo "make ui                          MLflow UI on http://127.0.0.1:5000"

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	    { echo "the venv module is missing; on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	@echo "Once: PyTorch, Ray, MLflow and what they need are installed into $(VENV); one to six minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --no-compile -r requirements.txt
	$(BIN)/pip install --quiet --no-deps -e .
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # on all cores; pip would on one
	@touch $@

# What developers need besides: tests, lint, types, and the extras, which the tests use.
dev: $(VENV)/.dev

$(VENV)/.dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/pip install --quiet -r requirements-dev.txt
	@touch $@

# Optuna proposes the settings of a search.
sweep: $(VENV)/.search

$(VENV)/.search: $(VENV)/.installed
	$(BIN)/pip install --quiet -e '.[search]'
	@touch $@

# From a clean clone to a page; ARGS='--out DIR --no-open'.
demo: setup
	$(BIN)/bsp demo $(ARGS)

calibrate: setup
	$(BIN)/python experiments/tools/calibrate_world.py $(ARGS)

$(TARGETS): setup
	$(BIN)/python experiments/$(patsubst $@=%,%,$(filter $@=%,$(EXPERIMENTS))).py $(ARGS)

# Two processes; a file's tests stay together, as they share what they prepare; in order, long files first (conftest.py).
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
test: dev
	$(PYTEST) -m "not slow" $(ARGS)

test-fast: dev
	$(PYTEST) -m "not ray and not server and not slow and not long" $(ARGS)

test-slow: dev
	$(PYTEST) -m slow $(ARGS)

test-all: dev
	$(PYTEST) $(ARGS)

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: dev
	$(BIN)/mypy

# Everything that can go wrong, done on purpose; ends with a table: fault, what happened, equal or not.
faults: dev
	$(PYTEST) -m fault $(ARGS)

# 2000 mutated files of each kind: read, or refused by an error that names them. Failing ones go to fuzz_failures/.
fuzz: dev
	$(BIN)/python tests/support/fuzzing.py $(ARGS)

# The site, from docs/ and the docstrings; a warning is an error.
docs: dev
	rm -rf docs/api
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/site
	@echo "build/site/index.html"

layout: setup
	$(BIN)/python experiments/tools/import_order.py $(ARGS)

# The server binds to the loopback address only, and answers to these names only: else any page in the user's browser
# could have a name of its own point to this address, and read. Without the job runner it is two processes, not ten.
# --app-name bsp: MLflow's own application, opened as "model training" and on the tables (bsp_platform/tracking/ui.py).
ui: setup
	@mkdir -p mlflow
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --app-name bsp --workers 1 --host 127.0.0.1 --port 5000 \
	    --allowed-hosts localhost:5000,127.0.0.1:5000 \
	    --cors-allowed-origins http://localhost:5000,http://127.0.0.1:5000 \
	    --backend-store-uri sqlite:///$(CURDIR)/mlflow/mlflow.db

clean:
	rm -rf $(VENV) build *.egg-info
