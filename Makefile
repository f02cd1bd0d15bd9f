# The same commands on a laptop and in CI. `make setup` first; PYTHON=… uses another interpreter with the extras.
PYTHON ?= .venv/bin/python
PURE := bgproxy/core bgproxy/wire bgproxy/shm

SECONDS := 0

.PHONY: setup fmt lint types test soak clients autobahn fuzz strictness cov ci bench bench-memory bench-hostile bench-rollback demo

setup: ## a virtual environment with everything that the other targets need
	python3 -m venv .venv
	.venv/bin/pip install -q -e '.[test,lint]'

fmt: ## format, and fix what can be fixed without thinking
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -q

soak: ## what has to wait for longer than a person would
	$(PYTHON) -m pytest -q -m 'soak or long'

clients: ## every real client; fails where one is not installed
	BGPROXY_ALL_CLIENTS=1 $(PYTHON) -m pytest -q -n0 -m '' tests/e2e/test_clients.py

autobahn: ## every Autobahn case of WebSocket, directly and through the proxy: a quarter of an hour
	$(PYTHON) -m pip install -q -e '.[test,autobahn]'
	$(PYTHON) -m tests.e2e.autobahn

cov: ## every branch of the pure parts, from their own tests
	$(PYTHON) -m pytest -q tests/core tests/wire tests/shm \
		$(PURE:%=--cov=%) --cov-branch --cov-report=term-missing --cov-fail-under=100

fuzz: ## until Ctrl-C, or SECONDS=600; both directions at once; what is found goes to tests/fuzz/findings/
	$(PYTHON) -m pip install -q -e '.[test,fuzz]'
	$(PYTHON) -m tests.fuzz --seconds $(SECONDS)

ci: ## what a push must pass, from a bare checkout
	.ci/run

bench: ## CPU per request beside nginx and HAProxy; a quiet machine with two cores
	$(PYTHON) benchmarks/compare.py --max-ratio 1.35

bench-memory: ## resident memory: idle connections, 1 GiB bodies
	$(PYTHON) benchmarks/memory.py

strictness: ## dangerous requests through nginx, HAProxy, httpd, Caddy, Envoy and bgproxy: who lets what through
	$(PYTHON) -m pip install -q -e '.[test,peers]'
	$(PYTHON) benchmarks/strictness.py

bench-hostile: ## 10,000 slow or idle connections beside normal traffic, which must not see an error
	$(PYTHON) benchmarks/hostile.py

bench-rollback: ## how long a rollback takes while something is broken; 1,000 switches beside 1,000 rollbacks
	$(PYTHON) benchmarks/rollback.py

demo:
	$(PYTHON) -m bgproxy demo
