# All of these do the set-up themselves and are quick when run again.
#   make demo        find a mixture on text that is already on this machine, and train with it
#   make test        lint, types and the whole test suite
#   make docs        the documentation as a site, in build/docs/index.html
#   make notebooks   after the demo: execute the notebooks; HTML in build/notebooks
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= demo

.PHONY: demo test docs notebooks setup lint clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed (make PYTHON=python3.12)")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/regmix demo $(DEMO) $(ARGS)

notebooks: $(READY)
	$(BIN)/python -m notebooks.build $(ARGS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Three at a time, also on two cores: tests of launchers spend much of their time waiting.
test: lint
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

docs: $(READY)
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --fresh-env --quiet docs build/docs
	@echo build/docs/index.html

clean:
	rm -rf $(VENV) build dist *.egg-info
