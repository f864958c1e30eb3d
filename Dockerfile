# The image: one static binary, no shell, no package manager, not root, works on a read-only root.
#
#   docker build -t tokenmint .
#   docker run --read-only --cap-drop ALL -p 8080:8080 -v "$PWD/etc:/etc/tokenmint:ro" tokenmint
#
# The mounted tokenmint.toml needs `listen = "0.0.0.0:8080"`, or the container needs TOKENMINT_SERVER__LISTEN: the
# default, loopback, can't be reached from outside. uid 65532 must be able to read its keys.
# Needs BuildKit (Docker 23 or later), Podman or buildah. buildah before 1.29 ignores the default of an ARG
# that names a stage: add --build-arg BINARY_FROM=build.

#   docker build --target batch -t tokenmint:batch .   # with Intel's library for batch signing: docs/signing.md
#   docker build --target pkcs11 -t tokenmint:pkcs11 . # can load PKCS#11 modules: docs/operate/pkcs11.md
#
# Any Rust image with a C compiler and musl. Its version must match `rust-version` in Cargo.toml.
ARG BUILDER_IMAGE=rust:1.95-alpine
# It has CA certificates, for the calls to Salesforce. `scratch` works too, with a mounted bundle and
# SSL_CERT_FILE.
ARG RUNTIME_IMAGE=gcr.io/distroless/static-debian12:nonroot
# `prebuilt` uses target/image/tokenmint instead of compiling: for a CI that has compiled already, and
# for tests/image, which so tests the same final stage that ships.
ARG BINARY_FROM=build
# For the targets `batch` and `pkcs11`, which load libraries. So they need glibc, at least the builder's version, and OpenSSL's libcrypto.
ARG GLIBC_BUILDER_IMAGE=rust:1.95-bookworm
ARG GLIBC_IMAGE=gcr.io/distroless/cc-debian12:nonroot
ARG PYTHON_IMAGE=python:3.12-slim-bookworm
ARG BATCH_FROM=build-batch

# Builds one platform at a time, with that platform's own compiler, since a cross toolchain would be one more
# dependency to trust. For arm64 use an arm64 machine; emulation gives the same result, slowly.
FROM ${BUILDER_IMAGE} AS build
# `otel`, for traces: docs/operate/monitoring.md.
ARG FEATURES=
WORKDIR /src
COPY . .
# The caches keep compiled dependencies between builds, outside the layers, so that a change in src/
# compiles only tokenmint. `touch`: Cargo compares file times, and would accept a cache from a newer checkout
# for this one. `chroot`: a binary that needs a library fails here and not in production.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    target="$(uname -m)-unknown-linux-musl" \
    && find src -name '*.rs' -exec touch {} + \
    && cargo build --locked --profile dist --bin tokenmint --features "$FEATURES" --target "$target" \
    && mkdir /out \
    && cp "target/$target/dist/tokenmint" /out/ \
    && chroot /out /tokenmint --version

FROM scratch AS prebuilt
COPY target/image/tokenmint /out/tokenmint

FROM ${BINARY_FROM} AS binary

FROM ${RUNTIME_IMAGE} AS service
# Owned by root and not writable, so that the service can't change its own binary.
COPY --from=binary --chmod=0555 /out/tokenmint /usr/local/bin/tokenmint

# A path, not a secret; the rule only looks at the name.
# hadolint ignore=DL3064
ENV TOKENMINT_CONFIG=/etc/tokenmint/tokenmint.toml
# A number: `runAsNonRoot` in Kubernetes can't look up a name, and scratch has no /etc/passwd.
USER 65532:65532
EXPOSE 8080
# Exec form, since there is no shell. For Docker and Podman only: Kubernetes ignores it and has its own probes, and
# buildah keeps it only with --format docker.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/tokenmint", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/tokenmint"]
CMD ["serve"]

# Last, since they change with every build, and the layers above don't.
ARG SOURCE=unknown
ARG VERSION=unknown
ARG REVISION=unknown
# tokenmint's own licence. Its dependencies are in the bill of materials: make sbom.
ARG LICENSES="MIT OR Apache-2.0"
LABEL org.opencontainers.image.title="tokenmint" \
      org.opencontainers.image.description="Mints JWTs for Salesforce and Intercom: identity tokens, OAuth assertions, access tokens, JWKS" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="${LICENSES}"

# The same image with Intel's crypto_mb. The last stage of the file stays the default.
FROM ${GLIBC_BUILDER_IMAGE} AS build-glibc
ARG FEATURES=
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    find src -name '*.rs' -exec touch {} + \
    && cargo build --locked --profile dist --bin tokenmint --features "$FEATURES" \
    && mkdir /out \
    && cp target/dist/tokenmint /out/

FROM ${PYTHON_IMAGE} AS crypto_mb
COPY tests/batch/requirements.txt /
RUN python3 -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --require-hashes --requirement /requirements.txt \
    && mkdir /out \
    && for library in crypto_mb.so.13 intlc.so.5 imf.so irng.so svml.so; do cp "/venv/lib/lib$library" /out/; done

FROM scratch AS build-batch
COPY --from=build-glibc --chmod=0555 /out/tokenmint /usr/local/bin/tokenmint
COPY --from=crypto_mb --chmod=0444 /out/ /usr/local/lib/crypto_mb/

# Uses the files that tests/image has put there.
FROM scratch AS prebuilt-batch
COPY target/image/batch /

FROM ${GLIBC_IMAGE} AS glibc
FROM ${BATCH_FROM} AS batch-files

FROM service AS batch
# Copied whole: distroless/cc is little more than glibc, libgcc and OpenSSL, and batch-files has only what is needed.
# hadolint ignore=DL3067
COPY --from=glibc / /
# hadolint ignore=DL3067
COPY --from=batch-files / /
# Also a path, not a secret.
# hadolint ignore=DL3064
ENV TOKENMINT_SERVER__SIGNING__LIBRARY=/usr/local/lib/crypto_mb/libcrypto_mb.so.13
# Intel's compiler runtime is under Intel's own licence: docs/signing.md.
LABEL org.opencontainers.image.licenses="NOASSERTION"

# The same image for PKCS#11. It has no module: copy the vendor's into an image of your own.
FROM service AS pkcs11
# hadolint ignore=DL3067
COPY --from=glibc / /
COPY --from=build-glibc --chmod=0555 /out/tokenmint /usr/local/bin/tokenmint

FROM service
