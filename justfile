# The project's habits, each one line. `just check` only reads; `just fix` writes.

# List the recipes.
default:
    @just --list

# Format and lints; changes nothing.
check:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

# Put format and simple lints right.
fix:
    cargo clippy --locked --workspace --all-targets --all-features --fix --allow-dirty --allow-staged
    cargo fmt --all

# Every test; arguments go to `cargo test`.
test *ARGS:
    ./test.sh {{ARGS}}

# Benchmarks: just bench [FILTER] [--quick] [--json]
bench *ARGS:
    cargo run --locked --release -p ferroq-bench -- {{ARGS}}

# Properties, histories, crashes and faults for far longer than in CI: just soak [CASES]
soak CASES="20000":
    FERROQ_CASES={{CASES}} cargo test --locked --release -p ferroq-tests --test properties --test concurrent --test "crash*" --test "fault*" --test quickstart -- --nocapture

# Crashes and faults from a seed: just faults SEED=7
faults SEED="":
    FERROQ_SEED={{ trim_start_match(SEED, "SEED=") }} cargo test --locked -p ferroq-tests --test 'crash*' --test 'fault*' --test quickstart -- --nocapture
