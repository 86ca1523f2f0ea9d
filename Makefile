# `make demo` and `make test` are all that a newcomer needs; each installs what it lacks.
PY := .venv/bin/python
READY := .venv/.ready
SOURCES := parallax coordinator node
# Most tests wait for processes: four files at a time on two processors take less than half of the time, if all are patient.
PYTEST := PARALLAX_TEST_PATIENCE=$${PARALLAX_TEST_PATIENCE:-2} $(PY) -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder
.DEFAULT_GOAL := help
.PHONY: help demo test lint types load bench report chaos chart deep clean lock packages

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## run everything here, on http://127.0.0.1:8080/ (FOR=20: stop by itself after 20 s and check)
	@exec $(PY) -m parallax.cli demo $(if $(FOR),--for $(FOR))

test: lint types packages ## lint, types and the test suite
	$(PYTEST) -m "not deep"

deep: lint types packages ## the same, with the tests that take minutes
	$(PY) -m pytest -q

chart: $(READY) ## the chart's tests, with the long ones (make test has the others)
	$(PY) -m pytest -q tests/test_chart.py tests/test_pods.py tests/test_image.py tests/test_alerts.py

lint: $(READY) ## ruff: rules and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(READY) ## mypy --strict
	$(PY) -m mypy

chaos: $(READY) ## real processes and random faults (RUNS=20 seeds from SEED=1 on; SENTINEL=1: with a failover in each)
	@$(PY) -m tests.chaos --seed $(or $(SEED),1) --runs $(or $(RUNS),20) $(if $(SENTINEL),--sentinel)

load: $(READY) ## a short load test against a cluster of its own, which passes or fails (ARGS="--shape rolling --seconds 60")
	@$(PY) -m loadtests.load $(ARGS)

bench: $(READY) ## the benchmarks of loadtests/
	$(PY) -m loadtests.bench_viewers
	$(PY) -m loadtests.bench
	$(PY) -m loadtests.bench_formats

report: $(READY) ## measure for 25 minutes what viewers cost, and write docs/benchmarks.md (QUICK=1: 4 minutes, writes into out/)
	$(PY) -m loadtests.report $(if $(QUICK),--quick)

clean: ## remove what the other targets made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist out *.egg-info
	rm -rf tests/tutorial/node_modules docs/examples/react/node_modules docs/examples/react/main.js
	find $(SOURCES) tests loadtests -name __pycache__ -type d -prune -exec rm -rf {} +

lock: $(READY) ## resolve the dependencies anew into requirements.lock (for maintainers)
	$(PY) -m pip install --quiet uv
	$(PY) -m uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --upgrade --quiet --output-file requirements.lock

$(READY): requirements.lock pyproject.toml .ci/environment
	@.ci/environment
	@touch $@

# A real browser, the oldest Redis that we support, and npm for Perspective's own tutorial. Wheels have none of them.
packages:
	@missing=; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	command -v npm >/dev/null || missing="$$missing npm"; \
	[ -z "$$missing" ] || .ci/packages $$missing
