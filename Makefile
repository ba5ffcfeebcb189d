# Everything here needs Rust and nothing else, but for the test of examples/backend.py, which needs python3.

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

.DEFAULT_GOAL := help
.PHONY: help demo run test faults soak lint doc static sim fuzz

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Gateway, backend and a web page; prints one URL, Ctrl-C ends it
	cargo build --release --bin ssegateway --example demo
	@exec $(TARGET_DIR)/release/examples/demo

run: ## The gateway itself, configured by the environment: make run CALLBACK_URL=http://...
	cargo run --release --bin ssegateway

test: ## All tests
	cargo test

faults: ## Faults on the real binary: stalled readers, dead backends, lost links, no descriptors; a minute or two
	cargo test --release --test faults

soak: ## Thousands of streams with churn and faults: MINUTES=15 (1 if not given)
	SOAK_MINUTES=$(or $(MINUTES),1) cargo test --release --test soak

lint: ## Formatting and clippy, with and without TLS
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --test faults --test soak -- -D warnings
	cargo clippy --all-targets --no-default-features -- -D warnings

doc: ## The crate's documentation
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items

static: ## Static binaries: target/static/ssegateway, and ssegateway-notls without https
	mkdir -p $(TARGET_DIR)/static
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --bin ssegateway --target $(HOST) --no-default-features
	cp $(TARGET_DIR)/$(HOST)/release/ssegateway $(TARGET_DIR)/static/ssegateway-notls
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --bin ssegateway --target $(HOST)
	cp $(TARGET_DIR)/$(HOST)/release/ssegateway $(TARGET_DIR)/static/ssegateway
	ls -l $(TARGET_DIR)/static

sim: ## The simulation: SEEDS=1000 for many runs, SEED=42 to replay one
	$(if $(SEEDS),SIM_SEEDS=$(SEEDS)) $(if $(SEED),SIM_SEED=$(SEED)) cargo test --release --test simulation -- --nocapture

fuzz: ## Fuzz one target: TARGET=request TIME=600 (seconds); needs cargo-fuzz
	$(FUZZ_ENV) cargo $(FUZZ_TOOLCHAIN) fuzz run $(TARGET) -- -max_total_time=$(or $(TIME),60) -print_final_stats=1

# cargo-fuzz wants a nightly compiler; without one a stable compiler does, told to act like it.
NIGHTLY = $(shell rustup toolchain list 2>/dev/null | grep -q '^nightly' && echo yes)
FUZZ_TOOLCHAIN = $(if $(NIGHTLY),+nightly)
FUZZ_ENV = $(if $(NIGHTLY),,RUSTC_BOOTSTRAP=1)
