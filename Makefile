# Everything here needs Rust and nothing else, but for the test of examples/backend.py, which needs python3.

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

# Static, and its relocations packed (70 kB less), which a static glibc understands from 2.36 on.
PACKED = $(shell getconf GNU_LIBC_VERSION 2>/dev/null | awk -F '[ .]' '$$2 > 2 || $$3 >= 36 { print "-C link-arg=-Wl,-z,pack-relative-relocs" }')
STATIC = RUSTFLAGS='-C target-feature=+crt-static $(PACKED)' cargo build --release --bin ssegateway --target $(HOST)

.DEFAULT_GOAL := help
.PHONY: help demo run test faults soak lint doc static sim fuzz bench bench-parts bench-instructions bench-scale

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Gateway, backend and a web page; prints one URL, Ctrl-C ends it
	cargo run --release --example demo

run: ## The gateway itself, configured by the environment: make run CALLBACK_URL=http://...
	cargo run --release --bin ssegateway

test: ## All tests
	cargo test

faults: ## Faults on the real binary: stalled readers, dead backends, lost links, no descriptors; a minute or two
	cargo test --profile proof --test faults

soak: ## Thousands of streams with churn and faults: MINUTES=15 (1 if not given)
	SOAK_MINUTES=$(or $(MINUTES),1) cargo test --profile proof --test soak

lint: ## Formatting and clippy, with and without TLS
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --test faults --test soak -- -D warnings
	cargo clippy --all-targets --no-default-features -- -D warnings

doc: ## The crate's documentation
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items

static: ## Static binaries: target/static/ssegateway, and ssegateway-notls without https
	mkdir -p $(TARGET_DIR)/static
	$(STATIC) --no-default-features
	cp $(TARGET_DIR)/$(HOST)/release/ssegateway $(TARGET_DIR)/static/ssegateway-notls
	$(STATIC)
	cp $(TARGET_DIR)/$(HOST)/release/ssegateway $(TARGET_DIR)/static/ssegateway
	ls -l $(TARGET_DIR)/static

sim: ## The simulation: SEEDS=1000 for many runs, SEED=42 to replay one
	$(if $(SEEDS),SIM_SEEDS=$(SEEDS)) $(if $(SEED),SIM_SEED=$(SEED)) cargo test --profile proof --test simulation -- --nocapture

fuzz: ## Fuzz one target: TARGET=request TIME=600 (seconds); needs cargo-fuzz
	fuzz/run $(TARGET) $(or $(TIME),60)

# The load is built in a profile that is quick to build; what is measured is the release binary.
bench: ## What the release binary costs, over loopback, in about a minute: RUNS=3 FULL=1 ONLY=sending SERVER=path
	$(if $(SERVER),,cargo build --release --bin ssegateway)
	BENCH_SERVER=$(or $(SERVER),$(TARGET_DIR)/release/ssegateway) BENCH_RUNS=$(RUNS) BENCH_FULL=$(FULL) BENCH_ONLY=$(ONLY) \
		cargo bench --quiet --profile proof --bench loopback

bench-parts: ## Parts of the gateway by themselves, timed
	cargo bench --quiet --bench parts

bench-instructions: ## The same in instructions, which repeat from run to run; needs valgrind
	cargo bench --quiet --bench parts -- instructions

bench-scale: ## A thousand to a million simulated streams: memory, times, the longest turns
	cargo bench --quiet --bench scale
