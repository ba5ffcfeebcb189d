# All targets need Rust. Those for Python also need python3; test-e2e and test-python install their own dependencies.

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
VENV = $(TARGET_DIR)/python-venv
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

# Static binaries and wheels for other machines: TARGET=aarch64-unknown-linux-gnu, with Debian's cross compiler for it.
STATIC_DIR = $(TARGET_DIR)/static$(TARGET:%=/%)
WHEEL_DIR = $(TARGET_DIR)/wheel$(TARGET:%=/%)
STATIC = .ci/static $(or $(TARGET),$(HOST))

# The files that `make mutants` mutates, and the tests over sockets for mutants that survive the quick ones
# (.ci/mutants.toml).
CORE = clock table timer buffer escape metrics json/* http/* sse/* send/* callback/* hub/* gateway/* reactor/mod
MUTATE = cargo mutants --config .ci/mutants.toml --output $(TARGET_DIR) $(or $(FILE:%=--file %),$(CORE:%=--file 'src/%.rs'))
SOCKETS = $(filter-out simulation core reactor rooms python_example tls,$(patsubst tests/%.rs,%,$(wildcard tests/*.rs)))

.DEFAULT_GOAL := help
.PHONY: help demo demo-chat run test installed test-e2e test-python test-deploy faults soak siege lint doc static static-tls image wheel npm check-targets sim planted mutants bench bench-parts bench-instructions bench-scale bench-syscalls bench-tokens fuzz

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Gateway, backend and a web page; prints one URL, Ctrl-C stops it
	cargo run --release --example demo

# Only what the demo needs, in the versions of the tests.
CHAT_VENV = $(TARGET_DIR)/chat-venv
$(CHAT_VENV)/installed: tests/integrations/requirements.txt
	python3 -m venv --clear $(CHAT_VENV)
	$(CHAT_VENV)/bin/pip install --quiet --disable-pip-version-check --constraint $< flask gunicorn openai
	touch $@

demo-chat: $(CHAT_VENV)/installed ## A chat with a simulated language model: resume, tabs, stop, a killed worker
	cargo build --release --bin ssegateway
	SSEGATEWAY=$(abspath $(TARGET_DIR))/release/ssegateway $(CHAT_VENV)/bin/python examples/chat/demo.py

run: ## The gateway alone, configured by the environment: make run CALLBACK_URL=http://...
	cargo run --release --bin ssegateway

test: ## All Rust tests; the last line says whether all passed, and how many
	@.ci/count

# Two files at a time, as they wait for browsers and proxies most of their time.
test-e2e: ## Real clients, proxies and PHP: Chromium, curl, npm, PyPI, nginx, HAProxy, Caddy; ONLY=cors selects tests
	cargo build --profile proof --bin ssegateway --example demo
	tests/e2e/run $(TARGET_DIR) $(if $(ONLY),-k $(ONLY),-n 2 --dist loadfile)

# The deployment tests need root, for namespaces, and systemd, podman, crun, docker-compose, prometheus and python3.
DEPLOY_VENV = $(TARGET_DIR)/deploy-venv
$(DEPLOY_VENV)/done: tests/deploy/requirements.txt
	python3 -m venv $(DEPLOY_VENV)
	$(DEPLOY_VENV)/bin/pip install --quiet --disable-pip-version-check --requirement tests/deploy/requirements.txt
	touch $@

installed: $(VENV)/installed $(DEPLOY_VENV)/done ## What the tests in Python and those of real clients need, without running them
	tests/e2e/install $(TARGET_DIR)

test-deploy: static $(DEPLOY_VENV)/done ## Tests of examples/deploy: unit, image, manifest, dashboard, alerts
	docker-compose --file compose.yaml config --quiet
	docker-compose --file examples/deploy/cluster/compose.yaml config --quiet
	$(DEPLOY_VENV)/bin/python -B tests/deploy/kubernetes.py
	$(DEPLOY_VENV)/bin/python -B tests/deploy/systemd.py $(TARGET_DIR)/static/ssegateway
	$(DEPLOY_VENV)/bin/python -B tests/deploy/image.py $(TARGET_DIR)/static
	promtool check rules examples/deploy/alerts.yml
	promtool test rules tests/deploy/alerts_test.yml
	$(DEPLOY_VENV)/bin/python -B tests/deploy/monitoring.py $(TARGET_DIR)/static/ssegateway

# They wait most of their time, so there are more at once than processors. Backends with few workers get through with their
# clients only just in time: nothing else runs beside those.
faults: ## Faults on the real binary: stalled readers, dead backends, lost links, no descriptors; two minutes
	cargo test --profile proof --test faults -- --test-threads 4 --skip few_workers::
	cargo test --profile proof --test faults few_workers:: -- --test-threads 4

soak: ## Thousands of streams with churn and faults: MINUTES=15 (1 if not given); GATEWAYS=3 on a Redis that is killed every 20 s
	SOAK_MINUTES=$(or $(MINUTES),1) $(if $(GATEWAYS),SOAK_GATEWAYS=$(GATEWAYS)) cargo test --profile proof --test soak

siege: ## Honest users beside ten attacks, on the release binary in 64 MB: SECONDS=60 each, ONLY=silent SERVER=path
	$(if $(SERVER),,cargo build --release --bin ssegateway)
	SSEGATEWAY=$(abspath $(or $(SERVER),$(TARGET_DIR)/release/ssegateway)) SIEGE_SECONDS=$(or $(SECONDS),60) SIEGE_ONLY=$(ONLY) \
		cargo test --test siege

lint: ## Formatting and clippy, with and without TLS
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --test faults --test soak --test siege -- -D warnings
	cargo clippy --all-targets --no-default-features -- -D warnings

doc: ## The crate's documentation
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items

static: static-tls ## Static binaries: target/static/ssegateway, and ssegateway-notls without https; TARGET=aarch64-unknown-linux-gnu
	$(STATIC) $(STATIC_DIR)/ssegateway-notls --no-default-features
	ls -l $(STATIC_DIR)/ssegateway*

static-tls:
	$(STATIC) $(STATIC_DIR)/ssegateway

image: static-tls ## The static binary in an image, by docker or podman, without a download; TARGET as for static, NAME=ssegateway
	.ci/image $(STATIC_DIR)/ssegateway $(or $(NAME),ssegateway)

wheel: static-tls ## target/wheel/*.whl for pip: the static binary, the Python client, and a pytest fixture; TARGET as for static
	rm -f $(WHEEL_DIR)/*.whl
	.ci/wheel $(STATIC_DIR)/ssegateway $(WHEEL_DIR)

npm: static-tls ## target/npm/*.tgz for npm: the static binary, `startGateway` for tests, and the EventSource that reopens
	rm -f $(TARGET_DIR)/npm/*.tgz
	.ci/npm $(STATIC_DIR)/ssegateway $(TARGET_DIR)/npm

check-targets: ## Type checks for machines that cannot run here: macOS and 32-bit x86
	.ci/check-targets

$(VENV)/installed: tests/integrations/requirements.txt
	python3 -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

test-python: $(VENV)/installed ## Tests of the Python client, its fixture, and the applications for Flask, Django and FastAPI
	cargo build
	$(VENV)/bin/mypy --strict --cache-dir=$(TARGET_DIR)/mypy python examples/test_example.py tests/integrations
	SSEGATEWAY=$(abspath $(TARGET_DIR))/debug/ssegateway PYTHONPATH=$(CURDIR)/python PYTHONDONTWRITEBYTECODE=1 \
		$(VENV)/bin/pytest -q -W error -p no:cacheprovider -p ssegateway.pytest_plugin -n 2 --dist loadfile \
		python tests/integrations examples

sim: ## The simulation: SEEDS=1000 for many runs, SEED=42 to replay one
	$(if $(SEEDS),SIM_SEEDS=$(SEEDS)) $(if $(SEED),SIM_SEED=$(SEED)) cargo test --profile proof --test simulation -- --nocapture

planted: ## Plants one bug at a time and reports which check of the simulation catches it: SEEDS=3000
	@tests/simulation/planted $(or $(SEEDS),8000)

mutants: ## Mutates the core and lists the changes that no test catches; needs cargo-mutants and hours; FILE=src/timer.rs for one file
	mkdir -p $(TARGET_DIR)
	-SIM_SEEDS=300 SIM_FAILURES=1 $(MUTATE)
	SIM_SEEDS=3000 SIM_FAILURES=1 $(MUTATE) --iterate $(SOCKETS:%=--cargo-arg --test=%)

bench-tokens: $(VENV)/installed ## CPU of workers per token of a language model, beside sse-starlette and Flask
	cargo build --release --bin ssegateway
	$(VENV)/bin/pip install --quiet --disable-pip-version-check sse-starlette==3.7.0
	mkdir -p $(TARGET_DIR)/bench-tokens
	SSEGATEWAY=$(abspath $(TARGET_DIR))/release/ssegateway PYTHONPATH=$(CURDIR)/python PYTHONDONTWRITEBYTECODE=1 \
		$(VENV)/bin/python benches/token_streams.py $(abspath $(TARGET_DIR))/bench-tokens

# The load is built with a profile that compiles quickly; the gateway under test is the release binary.
LOOPBACK = BENCH_SERVER=$(or $(SERVER),$(TARGET_DIR)/release/ssegateway) BENCH_RUNS=$(RUNS) BENCH_FULL=$(FULL) BENCH_ONLY=$(ONLY) \
	cargo bench --quiet --profile proof --bench loopback

bench: ## Costs of the release binary over loopback, in about two minutes: RUNS=3 FULL=1 ONLY=sending SERVER=path
	$(if $(SERVER),,cargo build --release --bin ssegateway)
	$(LOOPBACK)

bench-syscalls: ## System calls per event; needs strace
	$(if $(SERVER),,cargo build --release --bin ssegateway)
	$(LOOPBACK) -- system-calls

bench-parts: ## Times of single parts of the gateway
	cargo bench --quiet --bench parts

bench-instructions: ## The same parts in instructions, identical in every run; needs valgrind
	cargo bench --quiet --bench parts -- instructions

bench-scale: ## A thousand to a million simulated streams: memory, times, longest turns
	cargo bench --quiet --bench scale

fuzz: ## Fuzz one target: TARGET=request TIME=600 (seconds); needs cargo-fuzz
	fuzz/run $(TARGET) $(or $(TIME),60)
