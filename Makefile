# make demo [PROFILE=…]  environment, install, every stage, then where to look
# make check             format, lint, types, import contracts and the fast tests, in under a minute
# make test              everything CI checks
# make label-studio      the review server on loopback, in an environment of its own; says where to log in
# make learn             proof that training teaches: a tiny model on unseen categories; reports/learn.html
# make bench [ONLY=…]    side-by-side speed, printed and written to bench/results.json
# make docs              the documentation site, into site/; docs-serve: the same, built again at each change

PYTHONS := 3.11 3.12 3.13
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

# The Python of the environment that is here; of a new one, or where another is asked for, the first of these that runs.
PYTHON ?=
VERSION := $(patsubst $(VENV)/lib/python%,%,$(wildcard $(VENV)/lib/python*))
ifneq ($(PYTHON)$(if $(VERSION),,none),)
FOUND = install/find_python.sh $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3)
VERSION := $(shell "$$($(FOUND))" -c 'import sysconfig; print(sysconfig.get_python_version())' 2>/dev/null)
endif
ifeq ($(filter $(PYTHONS),$(VERSION)),)
$(error Python 3.11, 3.12 or 3.13 is needed, and $(or $(PYTHON),python3) is $(or $(VERSION),not found): \
install one and name it, as in `make PYTHON=python3.13 demo`)
endif
# Named after the version: with another Python, the environment is made anew.
UV_READY := $(VENV)/.uv-$(VERSION)

.PHONY: demo check test label-studio learn bench docs docs-serve lock

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

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not server and not browser and not train"

# Three workers for two cores: tests of the review server wait for it a good part of their time.
test: $(VENV)/.installed-dev
	@tests/system_packages.sh
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	tests/smoke.sh
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 15

label-studio: $(VENV)/.installed
	$(BIN)/indus-cot review serve

learn: $(VENV)/.installed
	$(BIN)/python -m train.learn
	$(BIN)/python -m eval.report.learn

bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench $(ONLY)

# The variable silences a notice about mkdocs 2.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/.installed-dev
	$(BIN)/python -m mkdocs build --strict --quiet
	@echo "The documentation is in site/: open site/index.html"

docs-serve: $(VENV)/.installed-dev
	$(BIN)/python -m mkdocs serve --strict

# The locks hold every package, with hashes, for every Python above, and are installed without looking for dependencies.
# torch and the CUDA libraries it asks for have a lock of their own, because a machine may have another build of torch.
COMPILE := $(UV) pip compile --python-version 3.11 --universal --generate-hashes --no-header --no-annotate --quiet
OF_TORCH := /^(torch==|nvidia-|cuda-|triton==)/,/[^\\]$$/
# A machine's own build of torch has a version and a hash that exist nowhere else.
lock: export UV_FIND_LINKS :=
lock: $(UV_READY)
	$(COMPILE) pyproject.toml --extra train -o requirements.lock >/dev/null
	$(COMPILE) pyproject.toml --all-extras --constraint requirements.lock -o requirements-dev.lock >/dev/null
	sed -n -E '$(OF_TORCH)p' requirements.lock >requirements-torch.lock
	sed -i -E '$(OF_TORCH)d' requirements.lock requirements-dev.lock
	echo label-studio==1.23.2 | $(COMPILE) - -o annotation/label-studio.lock >/dev/null

$(UV_READY):
	"$$(install/find_python.sh "$(or $(PYTHON),python$(VERSION))" python3)" -m venv --clear $(VENV)
	$(BIN)/pip install --quiet uv==0.13.9
	@touch $@

# A build of torch among the machine's extra wheels (pip's find-links) comes first: it may be the only one that suits the
# machine. No lock can know its hash, so it is held to the version; every other file is compared with its hash.
INSTALL := $(UV) pip install --quiet --no-deps
$(VENV)/.installed: requirements.lock requirements-torch.lock install/fit_torchvision.py pyproject.toml $(UV_READY)
	$(INSTALL) --require-hashes --requirement requirements.lock
	$(INSTALL) --no-index "$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements-torch.lock)" 2>/dev/null || \
		$(INSTALL) --require-hashes --requirement requirements-torch.lock
	$(BIN)/python install/fit_torchvision.py
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(INSTALL) --require-hashes --requirement requirements-dev.lock
	@touch $@
