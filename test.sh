#!/usr/bin/env bash
# Installs what the tests need and is missing, and runs them all. Cargo fetches the rest by itself, as Cargo.lock says.
# Arguments go to `cargo test`; FERROQ_SEED and FERROQ_CASES reach the tests that draw lots.
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v cargo >/dev/null; then
    echo "test.sh: cargo is missing; install Rust 1.94 or later from https://rustup.rs" >&2
    exit 1
fi

# The bundled SQLite is compiled from C.
if ! command -v cc >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update
        apt-get install --yes --no-install-recommends gcc libc6-dev
    else
        echo "test.sh: a C compiler named cc is missing (SQLite is built from source); install one, on Debian or Ubuntu with" >&2
        echo "    sudo apt-get install gcc libc6-dev" >&2
        exit 1
    fi
fi

exec cargo test --locked --workspace --all-features "$@"
