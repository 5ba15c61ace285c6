#!/usr/bin/env bash
# All gates over the tree and a finished build. Each prints file:line and why; the exit status is 1 when any failed.
#
#   tools/lint.sh BUILD
set -uo pipefail
build=${1:?which build folder}
cd "$(dirname "$0")/.."
failed=()

gate() {
    local name=$1 began=$SECONDS
    shift
    if "$@"; then
        printf 'lint: %-12s ok    (%d s)\n' "$name" $((SECONDS - began))
    else
        printf 'lint: %-12s FAILED (%d s)\n' "$name" $((SECONDS - began))
        failed+=("$name")
    fi
}

gate gates tools/test_gates.sh
gate format tools/format.sh --check
gate deps tools/check_deps.py
gate banned tools/check_banned.py
gate locks tools/check_locks.py
gate text tools/check_text.sh
gate size tools/check_size.sh
gate headers tools/check_headers.sh "$build"
gate exports tools/check_exports.sh "$build"
gate cppcheck tools/cppcheck.sh
[ ${#failed[@]} = 0 ] || { echo "lint: failed: ${failed[*]}"; exit 1; }
echo "lint: all gates passed"
