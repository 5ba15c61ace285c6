#!/usr/bin/env bash
# Line and branch coverage of the C tests, a table per file and build/cov/coverage.html.
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=${JOBS:-$(nproc)}
cmake --preset cov >/dev/null
cmake --build build/cov -j "$jobs"
find build/cov -name '*.gcda' -delete
ctest --test-dir build/cov --output-on-failure -j "$jobs"
gcovr --root . --object-directory build/cov --filter '(core|master|ucx_transport|gpu)/' --exclude-unreachable-branches \
    --html build/cov/coverage.html --print-summary
