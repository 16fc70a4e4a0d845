# Everything a reader, an author or CI does, by one command each. GNU make and a POSIX shell are enough.
# Another Python than python3:  make setup PYTHON=python3.12

PYTHON ?= python3
PORT ?= 8000

BIN := .venv/bin
STAMP := .venv/.installed
NOTEBOOKS := $(wildcard book solutions exercises)
TRAINING := book/02_hyperfitting.ipynb
CODE := $(wildcard hyperfit_course tools tests benchmarks book/_ext)
BUILD := $(BIN)/jupyter-book build . -W --keep-going -q
# Two at a time, each on half of the cores: a text that is written token by token does not keep two cores busy.
IN_PAIRS := OMP_NUM_THREADS=$$(( ($$(getconf _NPROCESSORS_ONLN) + 1) / 2 )) $(BIN)/python -m pytest -q -n 2 --dist loadfile
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout 1800

.PHONY: help setup assets book html pdf links serve test test-slow bubblewrap test-colab colab lint notebooks refresh set-repository results benchmarks clean
.DEFAULT_GOAL := help

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install the course into it (about 2 minutes, 2.5 GB)

# A requirement that changed is installed by the next command that needs it.
$(STAMP): $(wildcard pyproject.toml requirements.txt constraints.txt)
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON): run 'sudo apt install python3', or name yours: make setup PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { echo "The course needs Python 3.10 to 3.13, and $(PYTHON) is $$($(PYTHON) -V). Name another: make setup PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python cannot make virtual environments here: run 'sudo apt install python3-venv', then 'make setup' again."; exit 1; }
	@echo "Installing into .venv: about 2 minutes, 2.5 GB on disk"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	@touch $@

assets: setup ## fetch the model and the texts (about 1 minute, once)
	@echo "Model and texts: about 1 minute the first time, then at once"
	@$(BIN)/python -m hyperfit_course.assets

book: assets ## run every notebook that changed and build the book (15 to 35 minutes the first time on 2 cores)
	@echo "Notebooks: 12 to 30 minutes the first time on 2 cores, then only those that changed"
	@$(BIN)/python tools/notebooks.py execute
	@$(BIN)/python tools/notebooks.py seed --from executed
	@$(MAKE) --no-print-directory pages FROM=executed

html: setup ## build the book and its slides from the committed outputs, running nothing (about 40 seconds)
	@$(BIN)/python tools/notebooks.py seed --from committed
	@$(MAKE) --no-print-directory pages FROM=committed

# After a failure Sphinx would not read the faulty page again and call the second build a success: forget what it read.
.PHONY: pages
pages:
	@echo "Building the pages and the slides: about 40 seconds"
	@$(BUILD) >/dev/null || { rm -rf _build/.doctrees; exit 1; }
	@$(BIN)/python tools/slides.py --from $(FROM)
	@$(BIN)/python tools/live_parts.py
	@echo "The book is in _build/html: open file://$(CURDIR)/_build/html/index.html or run 'make serve'"

pdf: html ## print the book into _build/hyperfitting.pdf with Chromium (about a minute)
	@$(BIN)/python tools/pdf.py

links: setup ## check every link to other sites (needs the network)
	@$(BIN)/python tools/notebooks.py seed --from committed
	@$(BIN)/jupyter-book build . --builder linkcheck -q

serve: ## show the built book at http://localhost:8000 (another port: make serve PORT=8001)
	@test -f _build/html/index.html || { echo "There is no book yet: run 'make book' or 'make html'."; exit 1; }
	@echo "http://localhost:$(PORT)  (stop with Ctrl-C)"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

test: assets lint ## check code, notebooks and every output they promise (35 to 75 minutes on 2 cores)
	@echo "Unit tests, of pages in a browser and of kills among them: 20 to 40 minutes"
	@$(IN_PAIRS) -rs tests
	@$(BIN)/python tools/notebooks.py check
	@echo "The notebook that trains the model: 1 minute, and 3 to 15 more if the model is not in the cache"
	@$(BIN)/python -m pytest -q $(NBVAL) $(TRAINING)
	@echo "Every other committed notebook, cell by cell: 10 to 35 minutes"
	@$(IN_PAIRS) $(NBVAL) --ignore $(TRAINING) $(NOTEBOOKS)

test-slow: setup ## kill cache writers, studies, trainings and graders, and say what was lost; moments of 8 bits (4 to 30 minutes)
	@$(BIN)/python -m pytest -q -rP -m slow tests

bubblewrap: ## install what keeps graded submissions from everything else (Debian or Ubuntu, asks for sudo)
	@sudo apt-get update -q && sudo apt-get install -q -y bubblewrap
	@# From 24.04 on, Ubuntu lets a program make namespaces only where a profile of AppArmor says so.
	@bwrap --unshare-user --ro-bind / / true 2>/dev/null || { test -d /etc/apparmor.d/abi && \
		printf 'abi <abi/4.0>,\ninclude <tunables/global>\nprofile bwrap /usr/bin/bwrap flags=(unconfined) {\n  userns,\n}\n' \
		| sudo tee /etc/apparmor.d/bwrap >/dev/null && sudo apparmor_parser -r /etc/apparmor.d/bwrap; }

test-colab: assets ## run two chapters and an exercise with the packages that Google Colab ships (5 to 10 minutes)
	@$(BIN)/python -m pytest -q -m colab tests/test_colab_simulation.py

colab: ## inside Google Colab's own image: the same with what is installed there
	@$(PYTHON) tools/run_in_colab.py

lint: setup ## check style and types (a minute or two the first time, then seconds)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy hyperfit_course
	@$(BIN)/mypy --ignore-missing-imports tools book/_ext  # Jupyter Book's parts come without types

# What is committed is trained in float32 on every machine, so that its numbers can be compared.
notebooks results: export ACCELERATE_MIXED_PRECISION := no

notebooks: assets ## authors: run what changed and put it beside its text, to be committed; or only NAMES="coin" (minutes)
	@$(BIN)/python tools/notebooks.py execute $(NAMES)
	@$(BIN)/python tools/notebooks.py publish $(NAMES)

refresh: setup ## authors: bring the text of the committed notebooks up to date, where only prose changed (seconds)
	@$(BIN)/python tools/notebooks.py refresh

set-repository: setup ## make badges, buttons and set-up cells lead to your fork: make set-repository URL=https://github.com/ORG/REPO
	@$(BIN)/python tools/notebooks.py set-repository "$(URL)"

results: assets ## authors: record seeds, sweeps and arms in results/ (about 16 hours; goes on where it stopped)
	@$(BIN)/python tools/course_results.py
	@$(BIN)/python tools/evidence_results.py

benchmarks: assets ## measure speed and memory against other libraries, and how both grow (about 40 minutes)
	@$(BIN)/python benchmarks/train_step.py
	@$(BIN)/python benchmarks/late_stage_step.py
	@$(BIN)/python benchmarks/full_step.py
	@$(BIN)/python benchmarks/match_temperature.py
	@$(BIN)/python benchmarks/decode_step.py
	@$(BIN)/python benchmarks/growth.py

clean: ## remove what was built; .venv and the fetched model stay
	@rm -rf _build .mypy_cache .pytest_cache .ruff_cache
