# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
PIP := -m pip --disable-pip-version-check install -q -c constraints.txt
BIN := .venv/bin

.PHONY: demo test check test-base format clean

demo: .venv/.engine  ## train with a fault, diagnose it, serve the result
	@$(BIN)/opsuite demo

test: check test-base  ## every check: format, lint, types, floors, tests, base install

check: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pytest -m "not slow and not alone" -n 2 --dist loadfile
	$(BIN)/pytest -m "not slow and alone"

# The wheel without torch: first in a directory whose folders carry our packages' names, then the
# tests of the commands and of the collector, away from the sources.
ELSEWHERE := build/elsewhere
BASE := $(CURDIR)/.venv-base/bin

test-base: .venv-base/.installed
	rm -rf $(ELSEWHERE) && mkdir -p $(ELSEWHERE)/engine $(ELSEWHERE)/collectors $(ELSEWHERE)/home
	echo 'raise ImportError("not the package you want")' > $(ELSEWHERE)/engine/__init__.py
	cp $(ELSEWHERE)/engine/__init__.py $(ELSEWHERE)/collectors/__init__.py
	cd $(ELSEWHERE) && export OPSUITE_HOME=$$PWD/home && $(BASE)/opsuite doctor \
		&& $(BASE)/opsuite launch --dry-run > /dev/null && $(BASE)/opsuite runs list
	cd build && $(BASE)/pytest -c ../pyproject.toml --rootdir .. -m "not slow and not once" \
		../tests/cli ../tests/collectors/daemon

format: .venv/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/.made:
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.engine: .venv/.made pyproject.toml constraints.txt
	$(BIN)/python $(PIP) -e '.[engine]'
	@touch $@

.venv/.test: .venv/.engine
	$(BIN)/python $(PIP) -e '.[test]'
	@touch $@

SOURCES := $(shell find opsuite engine collectors tui playbooks -name '*.py' -o -name py.typed)

.venv-base/.installed: $(SOURCES) pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-base
	rm -rf dist && .venv-base/bin/python -m pip --disable-pip-version-check wheel -q --no-deps -w dist .
	.venv-base/bin/python $(PIP) --force-reinstall --no-deps dist/*.whl
	.venv-base/bin/python $(PIP) "$$(echo dist/*.whl)[test-base]"
	@touch $@

clean:
	rm -rf .venv .venv-base build dist
