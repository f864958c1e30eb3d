# What people and CI run. Each target installs what it needs; the next machine has nothing but Rust, Python, Node
# and apt.

CARGO ?= cargo
export TOKENMINT_TOOLS ?= $(CURDIR)/target/tools

.PHONY: run test lint unit interop examples browser image drill drill-short soak docs bench guard

# The main job with no Salesforce org, no key and no configuration: prints commands to paste.
run:
	$(CARGO) run --locked --quiet -- dev

# Everything that CI runs.
test: lint unit guard interop drill-short examples browser image

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items --quiet

# The service over real sockets, and the units.
unit:
	tests/cache/setup
	$(CARGO) test --locked

# Other people's libraries and tools verify what it makes.
interop:
	tests/interop/setup
	$(CARGO) build --locked
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python -m pytest -q tests/interop

# Keys rotate under load, and no relying party meets a token that it can't verify: a hundred rotations, some 17 minutes.
drill: export DRILL_ROTATIONS = 100
drill: export DRILL_RESTARTS = 20
drill: export DRILL_TOKENS = 1000000
drill drill-short:
	tests/interop/setup
	$(CARGO) build --locked
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python tests/drill/run

# Ten thousand reloads leave memory, descriptors and threads as they are.
soak:
	RELOADS=10000 $(CARGO) test --locked --release --test soak -- --nocapture

# The backends of examples/, each started as its reader would, with a service behind it.
examples:
	tests/examples/setup
	$(CARGO) build --locked
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python -m pytest -q tests/examples

# The browser helper and the page of each backend, in headless Chromium, with stand-ins for Salesforce and Fin. One file
# at a time: some of it measures seconds.
browser:
	tests/browser/setup
	tests/examples/setup
	$(CARGO) build --locked
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint node --test --test-concurrency=1 tests/browser/*.test.mjs

# The image: linted, built, run read-only, asked for its health.
image:
	tests/image lint
	tests/image

# The tables that docs/troubleshooting.md has of the checks and of Salesforce's answers.
docs:
	UPDATE_DOCS=1 $(CARGO) test --locked --test service troubleshooting::

# tokenmint beside what people would use instead: see benches/README.md, which gets the table. BENCH_QUICK=1 takes
# three minutes.
bench:
	benches/setup
	CARGO=$(CARGO) $(TOKENMINT_TOOLS)/bench/venv/bin/python -B benches/harness

# Instructions of the hot paths, against benches/instructions.toml.
guard:
	benches/setup guard
	CARGO=$(CARGO) python3 -B benches/harness/guard.py
