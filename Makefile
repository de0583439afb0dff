# `make table4`, `make table5`, `make table2` and `make test` set up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: setup table2 table4 table5 test ui clean help

help:
	@echo "make table4 [ARGS='--seeds 3']   Table 4 on the embedded data (profile mini)"
	@echo "make table5 [ARGS='--seeds 3']   Table 5: fusion methods, 2D-TAN and G-TAD"
	@echo "make table2 [ARGS='--seeds 3']   Table 2: video grounding, 2D-TAN and LGI"
	@echo "make test                        all tests"
	@echo "make ui                          MLflow UI on http://127.0.0.1:5000"

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	    { echo "the venv module is missing; on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps -e .
	@touch $@

table4: setup
	$(BIN)/python experiments/ablation_table4.py $(ARGS)

table5: setup
	$(BIN)/python experiments/ablation_table5.py $(ARGS)

table2: setup
	$(BIN)/python experiments/table2_charades.py $(ARGS)

test: setup
	$(BIN)/python -m pytest $(ARGS)

# The server binds to the loopback address only. Without the job runner it is two processes instead of ten.
ui: setup
	@mkdir -p mlflow
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --workers 1 --host 127.0.0.1 --port 5000 \
	    --backend-store-uri sqlite:///$(CURDIR)/mlflow/mlflow.db

clean:
	rm -rf $(VENV) build *.egg-info
