# `make help` names the targets. The README's two commands are `make demo` and `make test`. All install the Debian packages
# they lack, check the versions of what the build needs, and share one build, which is kept outside this folder.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/tank/target
export ROCKSDB_STATIC = 1

ROCKSDB = ROCKSDB_LIB_DIR=$$(scripts/rocksdb.sh dev)
ROCKSDB_RELEASE = ROCKSDB_LIB_DIR=$$(scripts/rocksdb.sh release)

# What is built for the demo is what it runs; the packages are chosen so that their dependencies have the features that
# they have in the whole workspace, and nothing is built twice when the tests follow. `tank-tests` has no program: it is
# here for the features it asks for (`model-host` of tank-plan), which what is released does not have.
BINS = $(ROCKSDB) cargo build --locked -p tank -p tankd -p tank-shim -p tank-names -p tank-image -p tank-tests --bins
BUILD = $(ROCKSDB) cargo build --workspace --all-targets --locked

# End-to-end tests that need no debug build's fault points: they run against the programs that are released, too. One of
# the attacks needs them.
RELEASED = pods exec drift refusals attacks looking outcomes scenario names stacks registries

# The tests in tests/tests that start no daemon, and need neither root nor fixtures. The other crates
# have such tests only, but for those of ROOTED.
ROOTLESS = architecture compile language

# Those that boot virtual machines, which have one processor each: `test` runs them beside the others, half of its time.
MACHINES = debian power quota vm
TESTS = $(basename $(notdir $(wildcard compiler/tests/*.rs compiler/*/tests/*.rs executor/*/tests/*.rs tests/tests/*.rs)))

# Crates with tests that mount, as root: only their unit tests are part of `check`.
ROOTED = tank-tests tank-image

.PHONY: help demo check test test-debian test-release build lint doc release install deb bench bench-language bench-drift bench-names bench-network soak fuzz

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | expand -t 18

demo: ## install what is missing, build, pack an image, switch to examples/hello, show its page
	scripts/setup.sh demo
	$(BINS)
	scripts/demo.sh

# Properties are tried on fewer cases than `test` tries (256, proptest's default).
check: export PROPTEST_CASES = 32
check: lint ## before a commit: formatting, lints, documentation, and every test that needs no root
	$(BINS)
	$(ROCKSDB) cargo test --quiet --workspace --locked --no-fail-fast --lib
	# Beside each other: what never ends is waited for, and the pages of the manual are work.
	$(ROCKSDB) cargo test --quiet --workspace --locked --no-fail-fast $(addprefix --test ,$(ROOTLESS)) & rootless=$$!; \
	$(ROCKSDB) cargo test --quiet --workspace $(addprefix --exclude ,$(ROOTED)) --locked --no-fail-fast --bins --tests; \
	others=$$?; wait $$rootless && exit $$others

test: ## every test, as root: what `check` leaves out takes a daemon, a registry and a virtual machine
	scripts/setup.sh test
	$(BUILD)
	scripts/fixtures.sh
	scripts/nls.sh > /dev/null
	scripts/firewalls.sh > /dev/null
	scripts/sweep.sh
	$(ROCKSDB) cargo test --workspace --locked --no-fail-fast $(addprefix --test ,$(MACHINES)) > $(CARGO_TARGET_DIR)/machines.log 2>&1 & \
	machines=$$!; $(ROCKSDB) cargo test --workspace --locked --no-fail-fast --lib --bins \
		$(addprefix --test ,$(filter-out $(MACHINES) zz_leftovers,$(TESTS))); \
	others=$$?; wait $$machines; machines=$$?; cat $(CARGO_TARGET_DIR)/machines.log; test $$machines$$others = 00
	$(ROCKSDB) cargo test --workspace --locked --test zz_leftovers
	$(MAKE) test-release

test-release: release ## the end-to-end tests that need no fault points, against the released programs
	scripts/setup.sh test
	scripts/fixtures.sh
	TANK_BIN_DIR=$(CARGO_TARGET_DIR)/release $(ROCKSDB) \
		cargo test --workspace --locked --no-fail-fast $(addprefix --test ,$(RELEASED)) -- \
		--skip the_guard_is_there_before_the_host_forwards

test-debian: ## of the tests, those with Debian's ufw, firewalld and systemd-resolved: the commands that docs/ports.md has for them
	scripts/setup.sh test
	$(BUILD)
	scripts/fixtures.sh
	$(ROCKSDB) cargo test --workspace --locked --test debian

build: ## everything, tests included
	scripts/setup.sh build
	$(BUILD)

lint: doc ## formatting, lints and documentation, with warnings as errors; what CI runs first
	cargo fmt --all --check
	$(ROCKSDB) cargo clippy --workspace --all-targets --locked -- -D warnings

doc: ## the crates' documentation, with warnings as errors
	scripts/setup.sh build
	RUSTDOCFLAGS="-D warnings" $(ROCKSDB) cargo doc --workspace --no-deps --locked

release: ## the five programs, optimised
	scripts/setup.sh build
	$(ROCKSDB_RELEASE) cargo build --release --locked -p tank -p tankd -p tank-shim -p tank-names -p tank-image

# `make install PREFIX=/usr DESTDIR=/tmp/package`. Nothing is started: `systemd-sysusers`, `systemctl enable --now tankd tank-pods`.
PREFIX ?= /usr/local
install: release ## the programs, systemd's units, pages for man and completions, below PREFIX (/usr/local)
	scripts/install.sh "$(DESTDIR)" "$(PREFIX)" $(CARGO_TARGET_DIR)/release

deb: release ## a Debian package of that
	scripts/setup.sh deb
	scripts/deb.sh $(CARGO_TARGET_DIR)/release $(CARGO_TARGET_DIR)/debian

# What evaluation costs, beside Nickel alone; the figures are kept in tests/bench/results.
bench-language: ## what evaluation costs, beside Nickel alone
	scripts/setup.sh demo
	cargo build --release --locked -p tank -p tank-compiler --bins --examples
	python3 tests/bench/language.py $(CARGO_TARGET_DIR)/release tests/bench/results/language.jsonl

# What everything takes, beside crun, runc, containerd, podman, docker and the kernel alone, all of them in one run; the
# figures are kept in tests/bench/results. Some parts only: `make bench PARTS=one,exec`. Ten minutes.
bench: release ## what everything takes, beside its peers and the kernel alone; PARTS=one,exec RUNS=5
	scripts/setup.sh bench
	python3 tests/bench/speed.py $(CARGO_TARGET_DIR)/release --results tests/bench/results/speed.jsonl \
		$(if $(PARTS),--only $(PARTS)) $(if $(RUNS),--runs $(RUNS))

# From a damage to its repair, and a killed container until its successor runs beside podman and docker; the figures are
# kept in tests/bench/results.
bench-drift: release ## from a damage to its repair
	scripts/setup.sh bench
	python3 tests/bench/drift.py $(CARGO_TARGET_DIR)/release tests/bench/results/drift.jsonl

# What a pod gets of the name server, beside podman's and docker's; the figures are kept in tests/bench/results.
bench-names: release ## queries a second that a pod has answered, beside podman and docker; RUNS=10
	scripts/setup.sh bench
	python3 tests/bench/names.py $(CARGO_TARGET_DIR)/release --results tests/bench/results/names.jsonl \
		$(if $(RUNS),--runs $(RUNS))

# What the network carries: from pod to pod, to published ports; and what many of them cost. Beside podman, docker and the
# kernel alone, all of them in one run; the figures are kept in tests/bench/results. Five minutes.
bench-network: release ## throughput, connections a second and published ports, beside podman and docker; RUNS=10
	scripts/setup.sh bench
	python3 tests/bench/network.py $(CARGO_TARGET_DIR)/release --results tests/bench/results/network.jsonl \
		$(if $(RUNS),--runs $(RUNS))

# A longer life of switches, kills and drift than the tests bear: `make soak ROUNDS=5000`.
soak: ## a long life of switches, kills and drift; ROUNDS=5000
	scripts/setup.sh test
	$(BUILD)
	scripts/fixtures.sh
	TANK_SOAK_ROUNDS=$(or $(ROUNDS),2500) $(ROCKSDB) \
		cargo test --workspace --locked --test soak -- --nocapture

# Feeds the canonical decoder, and what reads images, whatever a fuzzer thinks of, for a minute each. Needs `cargo install cargo-fuzz`.
fuzz: ## random bytes for the canonical decoder, image documents and archives, a minute each
	cd compiler/model && cargo fuzz run --sanitizer none canonical -- -max_total_time=60
	cd executor/image && cargo fuzz run --sanitizer none documents -- -max_total_time=60
	cd executor/image && cargo fuzz run --sanitizer none archive -- -max_total_time=60
	cd executor/image && cargo fuzz run --sanitizer none convert -- -max_total_time=60
