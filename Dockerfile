# syntax=docker/dockerfile:1

# The static binary of `make static`, on its own in an empty image. Builds for the architecture it is built on
# (amd64, arm64, arm/v7): docker build -t ssegateway . (`make image` cross-compiles outside, and uses only the last stage.)

FROM docker.io/library/rust:1-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
# As `make static` does it. --target keeps the flags away from build scripts and procedural macros, which cannot be
# static.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    host="$(rustc -vV | sed -n 's/^host: //p')" \
    && export RUSTFLAGS='-C target-feature=+crt-static -C link-arg=-Wl,--no-eh-frame-hdr -C link-arg=-Wl,-z,pack-relative-relocs' \
    && cargo build --locked --release --bin ssegateway --target "$host" \
    && cp "target/$host/release/ssegateway" /ssegateway

FROM scratch
COPY --from=build /ssegateway /ssegateway
# A number, since there is no /etc/passwd; an orchestrator can then prove that it is not root.
USER 65532:65532
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=3s --start-period=2s CMD ["/ssegateway", "healthcheck"]
ENTRYPOINT ["/ssegateway"]
