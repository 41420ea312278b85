# Everything runs in .venv beside this file; `make demo` and `make test` set it up first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TOOLS := .tools
PROMETHEUS_BINARY := $(TOOLS)/usr/bin/prometheus

# uv does not read pip's configuration: give it the same wheels.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: setup demo test test-slow test-wheel chaos lint format clean prometheus dashboards-check

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'; \
	else \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'; \
	fi
	@touch $@

demo: $(STAMP)
	@$(BIN)/python jobs/evaluate.py digits
	@$(BIN)/python jobs/label_qcp.py digits

# Bytecode is written whatever the user's environment says: each of dozens of processes would compile the tests anew.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What takes minutes: real clusters, servers and kills. One after the other, since they wait for each other's CPUs.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow --ignore tests/chaos

# The wheel, installed into an environment of its own that shares the installed dependencies, labels digits.
test-wheel: $(STAMP)
	$(BIN)/python -m pytest tests/packaging -m slow

# Faults with real processes, one after the other, and a table of what they left. Disks need the right to mount.
chaos: $(STAMP)
	$(BIN)/python -m pytest tests/chaos -m 'slow or not slow'

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Debian's, unpacked only: installed, it would run as a service that listens on all interfaces.
prometheus: $(PROMETHEUS_BINARY)

$(PROMETHEUS_BINARY):
	@command -v apt-get >/dev/null || { \
		echo "Prometheus is fetched with apt-get, which is missing here; put one on the PATH or set PROMETHEUS" >&2; exit 1; }
	@mkdir -p $(TOOLS)
	cd $(TOOLS) && (apt-get download prometheus || (apt-get update && apt-get download prometheus))
	dpkg -x $(TOOLS)/prometheus_*.deb $(TOOLS)
	rm $(TOOLS)/prometheus_*.deb
	@touch $@

# Prometheus is fetched unless there is one: named by the variable PROMETHEUS, or on the PATH.
dashboards-check: $(STAMP) $(if $(or $(PROMETHEUS),$(shell command -v prometheus)),,$(PROMETHEUS_BINARY))
	@PYTHONPATH=tests $(BIN)/python -m helpers.check_panels

clean:
	rm -rf $(VENV) $(TOOLS)
