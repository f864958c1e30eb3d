# The commands for people and CI. Each target installs its tools, on a machine with Rust, Python, Node and apt. `make help` lists the
# targets: a line that begins with `## ` describes the target below it.

CARGO ?= cargo
export TOKENMINT_TOOLS ?= $(CURDIR)/target/tools
# Builds the binary that the tests in other languages run. It also builds a Rust test: otherwise Cargo would build the
# libraries again, without the features that `unit` enables in them.
BUILD = $(CARGO) build --locked --bin tokenmint --test soak
# The same for targets that measure times, together with the bench that `guard` builds.
BUILD_RELEASE = $(CARGO) build --locked --release --bin tokenmint --bench in_process

.PHONY: help run test tools lint prose unit system interop clients examples browser image drill drill-short chaos chaos-short soak \
	model model-keys docs site bench guard capacity capacity-short deploy-check otel-check fuzz fuzz-short deny advisories sbom

## Start tokenmint with made-up keys and a sandbox of Salesforce, and print commands to paste.
run:
	@test -e target/debug/tokenmint || echo "Needs Rust, a C compiler and 1.5 GB of disk. The first build downloads and \
	compiles some 300 crates: about 4 minutes on two cores."
	$(CARGO) run --locked -- dev

## List these targets.
help:
	@awk '/^## /{text=substr($$0,4); next} text!="" && /^[a-z][a-z -]*:/{split($$0,name,":"); printf "make %-22s %s\n", name[1], text} \
	{text=""}' Makefile

# Everything that CI runs. Targets that wait, for downloads or for a key's date, run beside targets that compute. A target that
# measures times runs alone, or beside one of lower priority.
## Run everything that CI runs (30 minutes on two cores).
test:
	$(call beside,tools,lint)
	$(MAKE) unit
	$(MAKE) system
	$(call beside,guard interop,drill-short,nice -n 19)
	$(MAKE) chaos-short
	$(call beside,image,deploy-check clients examples browser,nice -n 19)

# $(call beside,SOME,OTHERS,PREFIX): runs SOME in the background, with PREFIX before the command, and OTHERS. The output of SOME comes last.
define beside
	@mkdir -p target
	@$(3) $(MAKE) $(1) >target/$(firstword $(1)).log 2>&1 & some=$$!; \
	$(MAKE) $(2); others=$$?; \
	wait $$some; some=$$?; cat target/$(firstword $(1)).log; exit $$((some + others))
endef

# Installs the tools of all targets of `test`.
tools:
	tests/prose/setup
	site/setup
	tests/batch/setup
	tests/cache/setup
	tests/interop/setup
	tests/chaos/setup
	tests/deploy/setup
	tests/clients/setup
	tests/examples/setup
	tests/browser/setup
	benches/setup guard
	tests/image tools

## Check formatting, Clippy, rustdoc, prose and the links of the site.
lint: prose site
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --bench '*' -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items --quiet
	tests/chaos/run --check

## Check the words and sentences of comments, messages and pages.
prose:
	tests/prose/run

# Needs no root, and the network only for the library of batch signing. Without that library its tests are skipped, with a message.
## Run the Rust tests: units, and the service over real sockets.
unit:
	tests/batch/setup
	$(CARGO) test --locked

# strace shows the service's system calls; Python's libraries check the artifacts that the doctor passes.
## Run the Rust tests that need root, strace, redis-server or Python's libraries.
system:
	tests/interop/setup
	command -v strace >/dev/null || (apt-get update && apt-get install -y --no-install-recommends strace)
	tests/cache/setup
	$(CARGO) test --locked --test service --test mutations -- --ignored

# Random histories of access tokens, and interleavings of threads: 100,000 each; `unit` runs 100 and 10,000.
model: export MODEL_CASES ?= 100000
## Play 100,000 random histories of access tokens (30 minutes).
model:
	$(CARGO) test --locked --release --test model --test schedules -- --nocapture

# OAUTH_CLIENTS (40) is the number of processes of jsforce that start at once; 200 need 10 GB of memory and a minute.
## Verify tokenmint's output with third-party libraries and tools.
interop:
	tests/interop/setup
	$(BUILD)
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python -m pytest -q tests/interop

# openapi-generator, openapi-python-client and openapi-typescript read openapi.yaml. UPDATE_DOCS=1 writes the table of
# docs/integrate/generated-clients.md.
## Generate clients from openapi.yaml in eight languages, and run them.
clients:
	tests/clients/setup
	$(BUILD)
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python -m pytest -q tests/clients

# Keys rotate under load, and every relying party can verify every token: a hundred rotations, some 17 minutes.
drill: export DRILL_ROTATIONS = 100
drill: export DRILL_RESTARTS = 20
drill: export DRILL_TOKENS = 1000000
## Rotate keys under load; `drill` a hundred times, `drill-short` a few.
drill drill-short:
	tests/interop/setup
	$(BUILD)
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python tests/drill/run

# Goes through every case of the list of faults, by its number, and prints what happened and how long the recovery took. FULL=1 uses the full
# counts. chaos-short leaves out the tests of tests/service, which `unit` runs.
chaos-short: export CHAOS_SCENARIOS_ONLY = 1
## Inject each known fault, and check what users see; FULL=1 uses the full counts.
chaos chaos-short:
	tests/chaos/setup
	$(BUILD_RELEASE)
	TOKENMINT_BIN=$(CURDIR)/target/release/tokenmint tests/chaos/run

# A hundred thousand random histories of keysets, operators, hand edits, reloads and restarts: tests/keyset_model has the invariants.
## Play 100,000 random histories of keysets.
model-keys:
	MODEL_CASES=100000 $(CARGO) test --locked --test keyset_model -- --nocapture

# Ten thousand reloads must not increase memory, descriptors or threads.
## Reload ten thousand times.
soak:
	RELOADS=10000 $(CARGO) test --locked --release --test soak -- --nocapture

# Each parser of untrusted input: libFuzzer mutates fuzz/seeds, for FUZZ_SECONDS (60) each. fuzz/run has the details. `unit` has a
# short form without libFuzzer: tests/fuzz.
## Fuzz each parser for FUZZ_SECONDS (60) with libFuzzer.
fuzz:
	fuzz/run

## Fuzz each parser for five seconds.
fuzz-short:
	FUZZ_PROFILE=short FUZZ_SECONDS=5 fuzz/run

## Check licences, bans and sources of the dependencies.
deny: $(TOKENMINT_TOOLS)/bin/cargo-deny
	$< --locked check --deny warnings bans licenses sources

# Fetches the RustSec database from GitHub.
## Check the dependencies against the RustSec database.
advisories: $(TOKENMINT_TOOLS)/bin/cargo-deny
	$< --locked check advisories

# Lists all dependencies of the binary, as CycloneDX. The same commit gives the same file.
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
# Without optimization: each tool runs for a second.
$(TOKENMINT_TOOLS)/bin/cargo-%:
	CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 \
		$(CARGO) install --locked --quiet --root $(TOKENMINT_TOOLS) $(TOOL)

# The backends of examples/, each started like a reader would start it, with a real service.
## Test the backends of examples/.
examples:
	tests/examples/setup
	$(BUILD)
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python -m pytest -q tests/examples

# The browser helper and the page of each backend, in headless Chromium, with mocks of Salesforce and Fin. One file
# at a time, since some tests measure seconds.
## Test the browser helper in headless Chromium.
browser:
	tests/browser/setup
	tests/examples/setup
	$(BUILD)
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint node --test --test-concurrency=1 tests/browser/*.test.mjs

# Tests the manifests, alert rules, dashboard, units, Compose file and nginx of deploy/, each with the real tool and the real
# service; and every command of docs/operate.
## Test deploy/ with the real tools.
deploy-check:
	tests/deploy/setup
	tests/cache/setup
	$(BUILD)
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python -m pytest -q tests/deploy

# OpenTelemetry's own decoder reads the bytes that a collector gets.
## Test the feature `otel`.
otel-check:
	tests/otel/setup
	$(CARGO) clippy --locked --features otel -- -D warnings
	$(CARGO) build --locked --features otel
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python -m pytest -q tests/otel

# Lints and builds the image, runs it read-only, and checks its health.
## Build and test the container image.
image:
	tests/image lint
	tests/image

# The tables of the doctor's checks and of Salesforce's answers; the configuration keys, commands and metrics.
## Write the generated parts of docs/troubleshooting.md and docs/reference, and build the site.
docs:
	UPDATE_DOCS=1 $(CARGO) test --locked --test service -- troubleshooting:: reference::pages::
	$(MAKE) site

# Reads docs/, and the files that its pages link to. site/mkdocs.yml has the navigation. With `--quiet`, `--strict` would find nothing.
## Build the documentation site into target/site; a dead link is an error.
site:
	site/setup
	NO_MKDOCS_2_WARNING=1 $(TOKENMINT_TOOLS)/site/venv/bin/mkdocs build --strict --config-file site/mkdocs.yml

# Compares tokenmint with alternatives and writes the tables of benches/README.md.
## Measure tokenmint beside its alternatives; BENCH_QUICK=1 takes three minutes.
bench:
	tests/batch/setup
	tests/interop/setup
	benches/setup
	CARGO=$(CARGO) $(TOKENMINT_TOOLS)/bench/venv/bin/python -B benches/harness

# Writes the tables of docs/capacity.md: the rate of a core, the number of replicas, and the simulated requests to Salesforce.
## Measure for docs/capacity.md.
capacity:
	benches/setup
	tests/cache/setup
	CARGO=$(CARGO) $(TOKENMINT_TOOLS)/bench/venv/bin/python -B benches/harness/capacity.py

# The simulation alone, compared with real replicas; deploy-check runs it too. UPDATE_DOCS=1 writes its part of docs/capacity.md.
## Run the simulation of docs/capacity.md alone.
capacity-short:
	tests/deploy/setup
	tests/cache/setup
	$(BUILD)
	TOKENMINT_BIN=$(CURDIR)/target/debug/tokenmint $(TOKENMINT_TOOLS)/venv/bin/python -m pytest -q tests/deploy/test_capacity.py

## Count instructions of the hot paths against benches/instructions.toml.
guard:
	benches/setup guard
	CARGO=$(CARGO) python3 -B benches/harness/guard.py
