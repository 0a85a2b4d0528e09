# Two commands: `make demo` shows it, `make test` runs every test. Both install the Debian packages they lack and share
# one build, which is kept outside this folder.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/tank/target
export ROCKSDB_STATIC = 1

BUILD = ROCKSDB_LIB_DIR=$$(scripts/rocksdb.sh) cargo build --workspace --all-targets --locked

# End-to-end tests that need no debug build's fault points: they run against the programs that are released, too. One of
# the attacks needs them.
RELEASED = pods exec drift refusals attacks looking outcomes story

.PHONY: demo test test-release build lint release bench bench-language bench-drift soak fuzz

demo:
	scripts/setup.sh demo
	$(BUILD)
	scripts/demo.sh

test:
	scripts/setup.sh test
	$(BUILD)
	scripts/fixtures.sh
	scripts/nls.sh > /dev/null
	scripts/sweep.sh
	ROCKSDB_LIB_DIR=$$(scripts/rocksdb.sh) cargo test --workspace --locked --no-fail-fast --lib --bins --tests
	$(MAKE) test-release

test-release: release
	scripts/setup.sh test
	scripts/fixtures.sh
	TANK_BIN_DIR=$(CARGO_TARGET_DIR)/release ROCKSDB_LIB_DIR=$$(scripts/rocksdb.sh) \
		cargo test --workspace --locked --no-fail-fast $(addprefix --test ,$(RELEASED)) -- \
		--skip the_guard_is_there_before_the_host_forwards

build:
	scripts/setup.sh demo
	$(BUILD)

lint:
	scripts/setup.sh demo
	cargo fmt --all --check
	ROCKSDB_LIB_DIR=$$(scripts/rocksdb.sh) cargo clippy --workspace --all-targets --locked -- -D warnings

# What evaluation costs, beside Nickel alone; the figures are kept in tests/bench/results.
bench-language:
	scripts/setup.sh demo
	cargo build --release --locked -p tank -p tank-compiler --bins --examples
	python3 tests/bench/language.py $(CARGO_TARGET_DIR)/release tests/bench/results/language.jsonl

# What everything takes, beside crun, runc, containerd, podman, docker and the kernel alone, all of them in one run; the
# figures are kept in tests/bench/results. Some parts only: `make bench PARTS=one,exec`. Ten minutes.
bench: release
	scripts/setup.sh bench
	python3 tests/bench/speed.py $(CARGO_TARGET_DIR)/release --results tests/bench/results/speed.jsonl \
		$(if $(PARTS),--only $(PARTS)) $(if $(RUNS),--runs $(RUNS))

release:
	scripts/setup.sh demo
	ROCKSDB_LIB_DIR=$$(scripts/rocksdb.sh) cargo build --release --locked -p tank -p tankd -p tank-shim

# From a damage to its repair, and a killed container until its successor runs beside podman and docker; the figures are
# kept in tests/bench/results.
bench-drift: release
	scripts/setup.sh bench
	python3 tests/bench/drift.py $(CARGO_TARGET_DIR)/release tests/bench/results/drift.jsonl

# A longer life of switches, kills and drift than the tests bear: `make soak ROUNDS=5000`.
soak:
	scripts/setup.sh test
	$(BUILD)
	scripts/fixtures.sh
	TANK_SOAK_ROUNDS=$(or $(ROUNDS),2500) ROCKSDB_LIB_DIR=$$(scripts/rocksdb.sh) \
		cargo test --workspace --locked --test soak -- --nocapture

# Feeds the canonical decoder whatever a fuzzer thinks of, for a minute. Needs `cargo install cargo-fuzz`.
fuzz:
	cd compiler/model && cargo fuzz run --sanitizer none canonical -- -max_total_time=60
