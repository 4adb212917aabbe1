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
	$(BIN)/pytest -m "not slow"

# The wheel without torch, in a directory whose folders carry our packages' names.
test-base: .venv-base/.installed
	rm -rf build/elsewhere && mkdir -p build/elsewhere/engine build/elsewhere/collectors
	echo 'raise ImportError("not the engine you want")' | tee build/elsewhere/engine/__init__.py > build/elsewhere/collectors/__init__.py
	cd build/elsewhere && ../../.venv-base/bin/opsuite doctor
	cd build/elsewhere && ../../.venv-base/bin/pytest -c ../../pyproject.toml --rootdir ../.. -m "not slow" ../../tests

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
