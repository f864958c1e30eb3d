# What people and CI run. Each target installs what it needs, on a machine with Rust, Python, Node and apt. `make help` lists the
# targets: a line that begins with `## ` describes the target below it.

CARGO ?= cargo
export TOKENMINT_TOOLS ?= $(CURDIR)/target/tools
# The binary that the tests in other languages run. Asked for beside a test of Rust's, so that Cargo makes no second set of the
# libraries, without the features that `unit` needs of them.
BUILD = $(CARGO) build --locked --bin tokenmint --test soak
# The same for targets that measure times, with what `guard` builds.
BUILD_RELEASE = $(CARGO) build --locked --release --bin tokenmint --bench house

.PHONY: help run test tools lint unit system interop examples browser image drill drill-short chaos chaos-short soak model model-keys docs bench guard capacity \
	capacity-short deploy-check otel-check fuzz fuzz-short deny advisories sbom

## Start tokenmint with made-up keys and a sandbox of Salesforce, and print commands to paste.
run:
	@test -e target/debug/tokenmint || echo "Needs Rust, a C compiler and 1.5 GB of disk. The first build downloads and \
	compiles some 300 crates: about 4 minutes on two cores."
	$(CARGO) run --locked -- dev

## List these targets.
help:
	@awk '/^## /{text=substr($$0,4); next} text!="" && /^[a-z][a-z -]*:/{split($$0,name,":"); printf "make %-22s %s\n", name[1], text} \
	{text=""}' Makefile

# Everything that CI runs. What waits, for downloads or for a key's time to come, runs beside what computes. What looks at times
# is alone, or beside what gives way to it.
## Run everything that CI runs (30 minutes on two cores).
test:
	$(call beside,tools,lint)
	$(MAKE) unit
	$(MAKE) system
	$(call beside,guard interop,drill-short,nice -n 19)
	$(MAKE) chaos-short
	$(call beside,image,deploy-check examples browser,nice -n 19)

# $(call beside,SOME,OTHERS,AS): both, the first by the command AS. What they print comes last.
define beside
	@mkdir -p target
	@$(3) $(MAKE) $(1) >target/$(firstword $(1)).log 2>&1 & some=$$!; \
	$(MAKE) $(2); others=$$?; \
	wait $$some; some=$$?; cat target/$(firstword $(1)).log; exit $$((some + others))
endef

# All that the targets of `test` would install one after the other.
tools:
	tests/batch/setup
	tests/cache/setup
	tests/interop/setup
	tests/chaos/setup
	tests/deploy/setup
	tests/examples/setup
	tests/browser/setup
	benches/setup guard
	tests/image tools

## Check formatting, Clippy and rustdoc.
lint:
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --bench '*' -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items --quiet
	tests/chaos/run --check

# Neither root nor the network is needed but to get the library of batches, whose tests say so where it isn't there.
## Run the Rust tests: units, and the service over real sockets.
unit:
	tests/batch/setup
	$(CARGO) test --locked

# strace shows what the service asks of the kernel; Python's libraries judge what the doctor calls well.
## Run the Rust tests that need root, strace, redis-server or Python's libraries.
system:
	tests/interop/setup
	command -v strace >/dev/null || (apt-get update && apt-get install -y --no-install-recommends strace)
	tests/cache/setup
	$(CARGO) test --locked --test service --test mutations -- --ignored

# Random histories of access tokens, and orders of threads: 100,000 of them, where `unit` plays 100 and 10,000.
model: export MODEL_CASES ?= 100000
## Play 100,000 random histories of access tokens (30 minutes).
model:
	$(CARGO) test --locked --release --test model --test schedules -- --nocapture

# Other people's libraries and tools verify what it makes.
## Let other libraries and tools verify what tokenmint makes.
interop:
	tests/interop/setup
	$(BUILD)
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python -m pytest -q tests/interop

# Keys rotate under load, and no relying party meets a token that it can't verify: a hundred rotations, some 17 minutes.
drill: export DRILL_ROTATIONS = 100
drill: export DRILL_RESTARTS = 20
drill: export DRILL_TOKENS = 1000000
## Rotate keys under load; `drill` a hundred times, `drill-short` a few.
drill drill-short:
	tests/interop/setup
	$(BUILD)
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python tests/drill/run

# Injects every fault of our list, by its number, and prints what happened and how long the recovery took. FULL=1 takes the full
# counts. chaos-short leaves out the tests of tests/service, which `unit` runs.
chaos-short: export CHAOS_SCENARIOS_ONLY = 1
## Cause each known fault, and check what users see; FULL=1 takes the full counts.
chaos chaos-short:
	tests/chaos/setup
	$(BUILD_RELEASE)
	TOKENMINT_BIN=$(CURDIR)/target/release/tokenmint tests/chaos/run

# A hundred thousand random histories of keysets, operators, hand edits, reloads and restarts: tests/keyset_model says what holds.
## Play 100,000 random histories of keysets.
model-keys:
	MODEL_CASES=100000 $(CARGO) test --locked --test keyset_model -- --nocapture

# Ten thousand reloads leave memory, descriptors and threads as they are.
## Reload ten thousand times.
soak:
	RELOADS=10000 $(CARGO) test --locked --release --test soak -- --nocapture

# Each door from a stranger's hand: what libFuzzer makes of fuzz/seeds, for FUZZ_SECONDS (60) each. fuzz/run says more. `unit` has a
# short form without libFuzzer: tests/fuzz.
## Fuzz each parser for FUZZ_SECONDS (60) with libFuzzer.
fuzz:
	fuzz/run

## Fuzz each parser for five seconds.
fuzz-short:
	FUZZ_PROFILE=short FUZZ_SECONDS=5 fuzz/run

# Licences, bans and sources of all that is built in.
## Check licences, bans and sources of the dependencies.
deny: $(TOKENMINT_TOOLS)/bin/cargo-deny
	$< --locked check --deny warnings bans licenses sources

# Against the RustSec database, which is fetched from GitHub.
## Check the dependencies against the RustSec database.
advisories: $(TOKENMINT_TOOLS)/bin/cargo-deny
	$< --locked check advisories

# All that the binary is made of, as CycloneDX, in target/tokenmint.cdx.json. The same commit gives the same file.
## Write the bill of materials to target/tokenmint.cdx.json.
sbom: $(TOKENMINT_TOOLS)/bin/cargo-cyclonedx
	$(CARGO) fetch --locked --quiet
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $< cyclonedx --quiet --format json --spec-version 1.5 \
		--target "$$(uname -m)-unknown-linux-musl" --override-filename tokenmint.cdx
	sed 's|file://$(CURDIR)|file:///tokenmint|' tokenmint.cdx.json >target/tokenmint.cdx.json
	rm tokenmint.cdx.json

CARGO_DENY = 0.20.2
CARGO_CYCLONEDX = 0.5.9
$(TOKENMINT_TOOLS)/bin/cargo-deny: TOOL = cargo-deny@$(CARGO_DENY)
$(TOKENMINT_TOOLS)/bin/cargo-cyclonedx: TOOL = cargo-cyclonedx@$(CARGO_CYCLONEDX)
# Not optimized: they run for a second.
$(TOKENMINT_TOOLS)/bin/cargo-%:
	CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 \
		$(CARGO) install --locked --quiet --root $(TOKENMINT_TOOLS) $(TOOL)

# The backends of examples/, each started as its reader would, with a service behind it.
## Test the backends of examples/.
examples:
	tests/examples/setup
	$(BUILD)
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python -m pytest -q tests/examples

# The browser helper and the page of each backend, in headless Chromium, with stand-ins for Salesforce and Fin. One file
# at a time: some of it measures seconds.
## Test the browser helper in headless Chromium.
browser:
	tests/browser/setup
	tests/examples/setup
	$(BUILD)
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint node --test --test-concurrency=1 tests/browser/*.test.mjs

# deploy/: manifests, alert rules, dashboard, units, Compose file and nginx, each by the real tool and beside the real
# service; and every command of docs/operating.md.
## Test deploy/ with the real tools.
deploy-check:
	tests/deploy/setup
	tests/cache/setup
	$(BUILD)
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python -m pytest -q tests/deploy

# The feature `otel`: OpenTelemetry's own decoder reads what a collector gets.
## Test the feature `otel`.
otel-check:
	tests/otel/setup
	$(CARGO) clippy --locked --features otel -- -D warnings
	$(CARGO) build --locked --features otel
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python -m pytest -q tests/otel

# The image: linted, built, run read-only, asked for its health.
## Build and test the container image.
image:
	tests/image lint
	tests/image

# The tables that docs/troubleshooting.md has of the checks and of Salesforce's answers.
## Write the generated tables of docs/troubleshooting.md.
docs:
	UPDATE_DOCS=1 $(CARGO) test --locked --test service troubleshooting::

# tokenmint beside what people would use instead: see benches/README.md, which gets the table. BENCH_QUICK=1 takes
# three minutes.
## Measure tokenmint beside its alternatives; BENCH_QUICK=1 takes three minutes.
bench:
	tests/batch/setup
	benches/setup
	CARGO=$(CARGO) $(TOKENMINT_TOOLS)/bench/venv/bin/python -B benches/harness

# What a core signs, how many replicas that makes, and what a thousand of them ask of Salesforce: docs/capacity.md gets it.
## Measure for docs/capacity.md.
capacity:
	benches/setup
	tests/cache/setup
	CARGO=$(CARGO) $(TOKENMINT_TOOLS)/bench/venv/bin/python -B benches/harness/capacity.py

# The simulation alone, held against real replicas; deploy-check has it too. UPDATE_DOCS=1 writes its part of docs/capacity.md.
## Run the simulation of docs/capacity.md alone.
capacity-short:
	tests/deploy/setup
	tests/cache/setup
	$(BUILD)
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python -m pytest -q tests/deploy/test_capacity.py

# Instructions of the hot paths, against benches/instructions.toml.
## Count instructions of the hot paths against benches/instructions.toml.
guard:
	benches/setup guard
	CARGO=$(CARGO) python3 -B benches/harness/guard.py
