# The face of the course. Needs Python 3.11 to 3.13 and make; everything else goes into .venv by itself.
#   make course PROFILE=cpu JOBS=2      other sizes, two lessons at a time
#   make setup TORCH=cpu                PyTorch's CPU build (Linux without a GPU: 0.2 GB instead of 3)
#   make run NB=03 P="label='cell type' seed=1"   parameters of a lesson: NAME=VALUE ..., quoted as in the shell
#   make course PY=python               use the environment you are in (conda), set nothing up

PROFILE ?= quick
JOBS ?= 1
TORCH ?= default
NB ?=
P ?=
CARD ?=
ARGS ?=
MODEL ?= geneformer-mini
GRID ?= workflow/grids/zero_shot.yaml
ON ?=
FILE ?=
HOURS ?= 3
LESSONS ?=
DATA ?=
FOR ?=
WHAT ?=
PYTEST ?=
PY = .venv/bin/python
SHELL = /bin/sh
export NUMBA_CACHE_DIR ?= $(CURDIR)/.cache/numba
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# READY stands for a complete environment; with PY=... on the command line it is the reader's own affair.
ifeq ($(origin PY),file)
READY = .venv/ready
SITE = .venv/site-ready
BROWSER = .venv/browser-ready
SNAKEMAKE = .venv/grid-ready
endif

.DEFAULT_GOAL := help
.PHONY: help setup site workshop slides bundle progress course run data rerun verify table test test-full test-gpu check format build new readme grid board atlas doctor bench bench-atlas pretrain ladder lock clean clean-all clean-env

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY)  ## make .venv with the tested versions (TORCH=cpu for a small PyTorch; FORCE=1 to repair)

course: $(READY)  ## run every lesson and end with a table (PROFILE=quick|cpu|gpu, JOBS=2, NB="01 03")
	@$(PY) -m coursekit course $(NB) --profile $(PROFILE) --jobs $(JOBS) $(if $(P),--with $(P))

run: $(READY)  ## run one lesson: make run NB=03 P="dataset=kang seed=1" PROFILE=cpu
	@test -n "$(NB)" || { echo 'Which lesson? For example: make run NB=03 P="dataset=kang seed=1"'; exit 2; }
	@$(PY) -m coursekit run "$(NB)" --profile $(PROFILE) $(if $(P),--with $(P)) $(ARGS)

rerun: $(READY)  ## run a lesson again with its last parameters, changed by P: make rerun NB=03 P="seed=2"
	@test -n "$(NB)" || { echo 'Which lesson? For example: make rerun NB=03 P="seed=2"'; exit 2; }
	@$(PY) -m coursekit run "$(NB)" --again $(if $(P),--with $(P)) $(ARGS)

data: $(READY)  ## fetch and make data sets: make data FOR="03 cpu" | FOR=mini (a corpus) | FOR="kang_ifnb_pbmc pbmc3k"
	@test -n "$(FOR)" || { echo 'Which sets? For example: make data FOR="03 cpu"'; exit 2; }
	@$(PY) -m coursekit data $(FOR)

verify: $(READY)  ## repeat a run and compare its results: make verify CARD=runs/.../card.json
	@test -n "$(CARD)" || { echo 'Which run? For example: make verify CARD=runs/03_.../card.json'; exit 2; }
	@$(PY) -m coursekit verify "$(CARD)"

table: $(READY)  ## the table of the last run of each lesson
	@$(PY) -m coursekit table

test: $(READY)  ## unit, parity and notebook tests, without the slow ones (PYTEST="-k name")
	@$(PY) -m pytest tests/unit tests/parity tests/notebooks -rs -m "not slow and not network" $(PYTEST)

test-full: $(READY) $(BROWSER) $(SNAKEMAKE)  ## all tests, with the slow ones and those for a GPU
	@$(PY) -m pytest -rs -m "not network" $(PYTEST)

test-gpu: $(READY)  ## what needs a GPU: the library, and every lesson in the gpu profile or with the minis (PYTEST="-k 03")
	@$(PY) -m pytest -rs -m gpu $(PYTEST)

check: $(READY)  ## ruff, mypy, the order of imports, codespell, and whether notebooks, sources and README agree
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command(["--no-logo", "--no-cache"])'
	@$(PY) -m codespell_lib
	@$(PY) -m coursekit build --check

format: $(READY)  ## let ruff write the code in the house's form
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

build: $(READY)  ## make the notebooks from notebooks/source
	@$(PY) -m coursekit build $(NB)

new: $(READY)  ## begin something: make new WHAT="lesson 42_my_question" | "dataset NAME FILE --label COLUMN" | "model NAME"
	@$(PY) -m coursekit new $(WHAT)

readme: $(READY)  ## the README's table from the last run of each lesson
	@$(PY) -m coursekit readme $(ARGS)

site: $(READY) $(SITE)  ## build the book from executed lessons, in site/_build/html (runs what is missing)
	@$(PY) -m coursekit site $(NB) --profile $(PROFILE) --jobs $(JOBS) $(ARGS)

workshop: $(READY)  ## a schedule with breaks, notes, instructor notebooks: make workshop HOURS=3 (LESSONS="01 03")
	@$(PY) -m coursekit workshop $(LESSONS) --hours $(HOURS)

slides: $(READY)  ## slides with speaker notes, offline, from the last runs: make slides NB=03
	@$(PY) -m coursekit slides $(NB)

grid: $(READY) $(SNAKEMAKE)  ## run lessons x datasets x models x seeds, what is missing: make grid GRID=... JOBS=4 (ON=slurm)
	@$(PY) -m coursekit grid "$(GRID)" --jobs $(JOBS) $(if $(ON),--on "$(ON)") $(if $(P),--with $(P)) $(ARGS)

board: $(READY)  ## does the foundation model beat the baseline? table, page and figure from all grids
	@$(PY) -m coursekit board $(ARGS)

atlas: $(READY) $(SNAKEMAKE)  ## tokenize and embed a large file in shards: make atlas FILE=cells.h5ad MODEL=... JOBS=4 (ON=slurm)
	@test -n "$(FILE)" || { echo 'Which cells? For example: make atlas FILE=cells.h5ad'; exit 2; }
	@$(PY) -m coursekit atlas "$(FILE)" --model "$(MODEL)" --jobs $(JOBS) $(if $(ON),--on "$(ON)") $(ARGS)

bundle: $(READY) $(SITE)  ## wheels, course, book in one archive for a room without internet (DATA="kang geneformer-v1-10m")
	@$(PY) -m coursekit bundle $(DATA) --profile $(PROFILE) --jobs $(JOBS) $(ARGS)

progress: $(READY)  ## which exercises you have solved
	@$(PY) -m coursekit progress

doctor:  ## is this machine ready? what is missing, and the command that mends it
	@py=$(PY); test -x "$$py" || command -v "$$py" >/dev/null || py=$$($(FIND_PYTHON)) || exit 1; \
	PYTHONPATH=lib$${PYTHONPATH:+:$$PYTHONPATH} $$py -m coursekit doctor $(ARGS)

bench: $(READY)  ## every benchmark: ratios within one run, with memory
	@bad=""; for file in benchmarks/bench_*.py; do echo "== $$file"; $(PY) $$file $(ARGS) || bad="$$bad $$file"; done; \
	test -z "$$bad" || { echo "failed:$$bad"; exit 1; }

bench-atlas: $(READY) $(SNAKEMAKE)  ## cells per second and memory of an atlas at 10k, 100k and 1M cells (hours on a laptop)
	@$(PY) benchmarks/atlas.py $(ARGS)

pretrain: $(READY)  ## pretrain a mini model, resumable (MODEL=scgpt-mini, ARGS="--help" for its options)
	@$(PY) -m scfm.pretraining $(MODEL) $(ARGS)

ladder: $(READY)  ## every rung at every label budget, in resumable shards (JOBS=2; ARGS="--plan" says what is missing)
	@$(PY) -m studies.ladder --jobs $(JOBS) $(ARGS)

lock: $(READY)  ## write requirements*.lock and environment.yml with uv (ARGS=--upgrade for newer versions)
	@$(PY) -m coursekit lock $(ARGS)

clean:  ## delete the runs of lessons, and caches (grids, atlases, bundles and the environment stay)
	rm -rf runs/[0-9][0-9]_* .cache/numba .pytest_cache .mypy_cache .ruff_cache .hypothesis

clean-all: clean  ## list what else is in runs/ (grids, atlases, bundles: hours of work), and delete it
	@du -sh runs/* 2>/dev/null || true
	rm -rf runs

clean-env:  ## delete the environment
	rm -rf .venv

# The first Python of 3.11 to 3.13 that can make environments; otherwise the reason, in words.
FIND_PYTHON = for py in $(PYTHON) python3 python3.12 python3.13 python3.11 python; do \
	  $$py -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1 && { echo $$py; exit 0; }; \
	done; \
	echo "The course needs Python 3.11, 3.12 or 3.13, and none was found (python3 here: $$(python3 -V 2>&1))." >&2; \
	echo "Install one (python.org, apt, brew, conda), or name it: make setup PYTHON=/path/to/python3.12" >&2; \
	exit 1

# Said here: pip would only say that it finds no such version.
INTEL_MAC = .venv/bin/python -c 'import platform, sys; sys.exit((platform.system(), platform.machine()) == ("Darwin", "x86_64"))' || { \
	echo "There is no PyTorch of the course's version for Macs with an Intel processor (or an Intel Python). On Apple silicon" >&2; \
	echo "take a Python for arm64: make clean-env; make setup PYTHON=/path/to/python3. Else use Colab, Binder or a Linux machine." >&2; \
	exit 1; }

# "user = true" in a pip.conf would be an error in an environment of its own
export PIP_USER := 0
PIP = .venv/bin/python -m pip install -q

ifdef FORCE
.PHONY: .venv/ready
endif

.venv/ready: pyproject.toml requirements.lock
	@py=$$($(FIND_PYTHON)) || exit 1; \
	test -x .venv/bin/python || $$py -m venv .venv || { rm -rf .venv; \
	  echo "$$py cannot make environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(INTEL_MAC)
	@echo "Setting up .venv with the tested versions; the first time takes some minutes."
	@$(PIP) --no-deps --require-hashes -r requirements.lock
	@test $(TORCH) != cpu || $(PIP) --no-deps --index-url https://download.pytorch.org/whl/cpu \
	  $$(sed -n 's/^# \(torch==[^ ]*\).*/\1/p' requirements.lock)
	@$(PIP) --no-build-isolation -e .
	@touch .venv/ready

# Only who builds the book, tests it in a browser, or runs grids and atlases needs these packages.
.venv/site-ready: requirements-site.lock | $(READY)
	@echo "Installing what builds the book; once."
	@$(PIP) --no-deps --require-hashes -r requirements-site.lock
	@touch $@

.venv/browser-ready: requirements-browser.lock | $(SITE)
	@$(PIP) --no-deps --require-hashes -r requirements-browser.lock && touch $@ || echo "Without these packages the book's tests are skipped."

.venv/grid-ready: requirements-grid.lock | $(READY)
	@echo "Installing Snakemake; once."
	@$(PIP) --no-deps --require-hashes -r requirements-grid.lock
	@touch $@
