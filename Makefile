# make demo [PROFILE=…]  environment, install, every stage, then where to look
# make test              everything CI checks
# make label-studio      the review server on loopback, in an environment of its own; says where to log in
# make learn             proof that training teaches: a tiny model on unseen categories; reports/learn.html
# make bench [ONLY=…]    side-by-side speed, printed and written to bench/results.json

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PROFILE ?= default
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
# uv does not read pip's settings: hand on where pip finds extra wheels.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_PYTHON := $(BIN)/python
export PATH := $(CURDIR)/$(BIN):$(PATH)
# uv compiles nothing when it installs: where Python may not keep what it compiled either, each of the many processes
# of a run compiles torch and transformers anew, for longer than it works.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test label-studio learn bench lock

demo: $(VENV)/.installed
	$(BIN)/indus-cot --profile $(PROFILE) repro
	@echo
	@echo "Done. Look at:"
	@echo "  reports/index.html                  the corpus, the trainings and the evaluation: counts, gates, leakage, figures"
	@echo "  reports/items/index.html            every evaluated image, with prediction and truth drawn on it"
	@echo "  reports/grpo/rollouts.html          what the tiny model wrote while it was trained"
	@echo "  $(BIN)/indus-cot show               one trajectory in the terminal (--open: as a page)"
	@echo "  $(BIN)/indus-cot verify             re-run every tool call of data/indus_cot"
	@echo "  $(BIN)/python -c \"import datasets; print(datasets.load_dataset('data/indus_cot'))\""

# Three workers for two cores: tests of the review server wait for it a good part of their time.
test: $(VENV)/.installed-dev
	@tests/system_packages.sh
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 15

label-studio: $(VENV)/.installed
	$(BIN)/indus-cot review serve

learn: $(VENV)/.installed
	$(BIN)/python -m train.learn
	$(BIN)/python -m eval.report.learn

bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench $(ONLY)

# Without extra wheels: a CPU build's own version exists nowhere else. torch itself asks for the CUDA packages it needs.
lock: export UV_FIND_LINKS :=
lock: $(VENV)/.uv
	$(UV) pip compile pyproject.toml --extra train --python-version 3.11 --universal --no-header --no-annotate \
		-o requirements.lock
	$(UV) pip compile pyproject.toml --all-extras --python-version 3.11 --universal --no-header --no-annotate \
		--constraint requirements.lock -o requirements-dev.lock
	echo label-studio==1.23.2 | $(UV) pip compile - --python-version 3.11 --universal --no-header --no-annotate \
		-o annotation/label-studio.lock
	sed -i -E '/^(nvidia-|cuda-|triton)/d' requirements.lock requirements-dev.lock

$(VENV)/.uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet uv==0.13.9
	@touch $@

$(VENV)/.installed: requirements.lock pyproject.toml $(VENV)/.uv
	$(UV) pip install --quiet --requirement requirements.lock
	$(UV) pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(UV) pip install --quiet --requirement requirements-dev.lock
	@touch $@
