# The image: one static binary and the roots it trusts, on nothing else.
#   docker build -t kielink .
#   docker build --build-arg REVISION=$(git rev-parse HEAD) -t kielink .     # names the commit at /status and by --version
# For amd64. By the same file for arm64, which nobody has built yet. Nothing here needs more than the builder that Docker brings.

# A tag gets patches, and is another image then. Whoever needs the same bytes twice names a digest, as .github/workflows/release.yml
# does: --build-arg RUST_IMAGE=rust:1.95-slim-bookworm@sha256:... To renew it: docker buildx imagetools inspect
# rust:1.95-slim-bookworm, and the Rust version here where Cargo.toml's rust-version has risen.
ARG RUST_IMAGE=rust:1.95-slim-bookworm
FROM ${RUST_IMAGE} AS build
# Where a bill of materials is asked for (`docker buildx build --sbom true`), it lists this stage, too, which has Cargo.lock.
ARG BUILDKIT_SBOM_SCAN_STAGE=true
WORKDIR /build
# Static, because nothing else is in the image that could be linked at run time. The flag reaches the
# binary alone and not the build scripts and macros (which cannot be static), as --target is spelled out.
# What Rust marks to be put in line is put there where it is small: 150 KB less, and a hit costs the same.
# A static program that is loaded anywhere has 15,000 relocations; packed they take 5 KB instead of 350. Functions that are the
# same are folded, 70 KB. Both by the linker that Rust has by itself on amd64 only; Debian's for arm64 knows neither.
ENV CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static -C llvm-args=-inlinehint-threshold=100 -C link-arg=-Wl,-z,pack-relative-relocs,--icf=all" \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static -C llvm-args=-inlinehint-threshold=100"

# The dependencies, in a layer of their own: a change in src does not build them again.
# Tests and benches stay outside, so their tables in the manifest go.
COPY Cargo.toml Cargo.lock ./
RUN sed -i '/^\[\[\(test\|bench\)\]\]/,/^$/d' Cargo.toml \
    && mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && cargo build --locked --profile dist --target "$(rustc --print host-tuple)"

# Which commit it is, for kielink_build_info and --version; in this layer, so that another one builds no dependency again.
ARG REVISION=unknown
ENV KIELINK_REVISION=${REVISION}
COPY build.rs ./
COPY config config
COPY src src
COPY docs/monitoring.md docs/monitoring.md
# Copied files are as old as in the working tree; Cargo would take the empty ones above for newer.
RUN touch src/main.rs src/lib.rs \
    && cargo build --locked --profile dist --target "$(rustc --print host-tuple)" \
    && cp "target/$(rustc --print host-tuple)/dist/kielink" /kielink

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /kielink /usr/local/bin/kielink

# Numeric: Kubernetes' runAsNonRoot takes no names, and there is no /etc/passwd to look one up in.
USER 65532:65532

# Every interface, where the program's own default is loopback: in a container, loopback is the container
# itself, and apps reach it by its name on the network that Compose or Swarm makes for them. That network
# is the boundary; publish these ports to nobody. Variables win over a settings file, so these two are
# changed by setting them again (in a pod, whose containers share loopback, to 127.0.0.1:8080).
ENV KIELINK__SERVER__LISTEN=0.0.0.0:8080 \
    KIELINK__ADMIN__LISTEN=0.0.0.0:9090 \
    container=oci
EXPOSE 8080 9090

# Finds the admin listener by the variable above. It fails only while kielink cannot serve, never because of kie.ai.
HEALTHCHECK --interval=5s --timeout=2s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/kielink", "healthcheck"]

# Finishes what it accepted. Give it more than server.shutdown_grace (20s): `docker run --stop-timeout 25`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/kielink"]

# Last, so that a new revision changes no layer.
ARG VERSION=dev
ARG REVISION=unknown
ARG CREATED=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="kielink" \
      org.opencontainers.image.description="A sidecar that holds one kie.ai API key and serves signed download links" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"
