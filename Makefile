# Two commands: `make demo` shows it, `make test` runs every test. Both install the Debian packages they lack and share
# one build, which is kept outside this folder.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/tank/target
export ROCKSDB_STATIC = 1

BUILD = ROCKSDB_LIB_DIR=$$(scripts/rocksdb.sh) cargo build --workspace --all-targets --locked

.PHONY: demo test build lint

demo:
	scripts/setup.sh demo
	$(BUILD)
	scripts/demo.sh

test:
	scripts/setup.sh test
	$(BUILD)
	scripts/fixtures.sh
	scripts/sweep.sh
	ROCKSDB_LIB_DIR=$$(scripts/rocksdb.sh) cargo test --workspace --locked --lib --bins --tests

build:
	scripts/setup.sh demo
	$(BUILD)

lint:
	scripts/setup.sh demo
	cargo fmt --all --check
	ROCKSDB_LIB_DIR=$$(scripts/rocksdb.sh) cargo clippy --workspace --all-targets --locked -- -D warnings
