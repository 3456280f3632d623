# What CI runs, piece by piece; `.ci/run` is all of it and does not need this file. tests/pages fails where the two differ.

# All that decides whether a change lands
ci:
    .ci/run

# All tests
test:
    tests/run

format:
    cargo fmt --check

clippy:
    cargo clippy --locked --all-targets --quiet -- -D warnings

docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --quiet

# Licences, sources, banned crates and doubled ones
deny:
    cargo deny --log-level error check bans licenses sources

# Libraries that nothing uses
machete:
    cargo machete

# The release build, which the tests below try
build:
    cargo build --release --locked

# The Rust tests
nextest: build
    cargo nextest run --locked

instructions: build
    tests/instructions

slow-clients: build
    tests/slow-clients

floods: build
    tests/floods

browser: build
    tests/browser

deploy: build
    tests/deploy

# The Debian package, on a booted Debian (root)
systemd: build
    tests/systemd

monitoring: build
    tests/monitoring

openapi: build
    tests/openapi

# The commands on the pages
pages: build
    tests/pages

# The image (Docker)
container:
    tests/container

# A swarm of one node (Docker)
swarm:
    tests/swarm
