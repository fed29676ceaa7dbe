# Everything runs in a virtual environment inside the checkout; each target sets it up when it is not there yet.
PYTHON ?= python3
BIN := .venv/bin
DOCS := .venv-docs/bin
CHECK := 'import sys; sys.exit("latentprint needs Python 3.11 or later: for example make PYTHON=python3.11 install" if sys.version_info < (3, 11) else 0)'

.PHONY: install demo test lint types bench browser docs

install: .venv/.installed

# torch and torchvision come in one command on purpose: a torchvision built for another torch fails on import.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c $(CHECK)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

# --resume: typed again after an interruption, it goes on where it stopped.
demo: install
	$(BIN)/latentprint demo --out runs/demo --resume

# One thread a process: tests are many and small.
test: install browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8

lint: install
	$(BIN)/python -m ruff check src tests examples scripts

types: install
	$(BIN)/python -m mypy

bench: install
	$(BIN)/latentprint bench all

# The site reads the sources and imports none of them, so its environment is small and holds no PyTorch.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

.venv-docs/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c $(CHECK)
	$(PYTHON) -m venv .venv-docs
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
	  > .venv-docs/requirements.txt
	$(DOCS)/python -m pip install --quiet -c constraints.txt -r .venv-docs/requirements.txt
	@touch $@

# The test of the report page opens it in Chromium, and is skipped where there is none.
browser:
	@command -v chromium >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	     && timeout 300 apt-get update -qq \
	     && DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -y -qq chromium >/dev/null; } \
	|| echo "no chromium here: the tests that open the report in it will be skipped"
