#!/usr/bin/env bash
# Installs what the tests need and is missing, and runs them all. Cargo fetches the rest by itself, as Cargo.lock says.
# Arguments go to `cargo test`; FERROQ_SEED and FERROQ_CASES reach the tests that draw lots.
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v cargo >/dev/null; then
    echo "test.sh: cargo is missing; install Rust 1.94 or later from https://rustup.rs" >&2
    exit 1
fi

# What is missing: a C compiler, since the bundled SQLite is compiled from C; the tools with which the disk and power-cut
# tests make file systems of their own to fill up, turn read-only and cut off; and the Redis server of which the tests
# start as many as they need, on loopback. FERROQ_REDIS_SERVER names another program to start, such as a valkey-server.
missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v mkfs.ext4 >/dev/null || [ -x /sbin/mkfs.ext4 ] || missing+=(e2fsprogs)
command -v mount >/dev/null || missing+=(mount)
command -v "${FERROQ_REDIS_SERVER:-redis-server}" >/dev/null || missing+=(redis-server)
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update
        apt-get install --yes --no-install-recommends "${missing[@]}"
        # Its package also runs a server of the whole system, which no test uses.
        if [[ " ${missing[*]} " == *" redis-server "* ]]; then
            invoke-rc.d redis-server stop
            update-rc.d redis-server disable
        fi
    else
        echo "test.sh: something is missing; install it, on Debian or Ubuntu with" >&2
        echo "    sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
fi
if [ "$(id -u)" != 0 ]; then
    echo "test.sh: crash_power and faults_disk mount file systems, which takes root: run this as root, or in a container" >&2
    echo "    with docker run --privileged. Without it these two fail, and say so." >&2
fi

exec cargo test --locked --workspace --all-features "$@"
