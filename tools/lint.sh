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

check_cppcheck() {
    local files
    mapfile -t files < <(. tools/sources.sh && sources 'core/*.c' 'master/*.c' 'ucx_transport/*.c' 'gpu/*.c' 'python/*.c')
    cppcheck -q -j "$(nproc)" --std=c11 --language=c --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
        --suppressions-list=tools/cppcheck.supp --template='{file}:{line}: {severity}: {message} [{id}]' \
        -D_GNU_SOURCE -D__linux__ -D__x86_64__ -I. -Icore/include "${files[@]}"
}

gate format tools/format.sh --check
gate deps tools/check_deps.py
gate banned tools/check_banned.py
gate text tools/check_text.sh
gate size tools/check_size.sh
gate headers tools/check_headers.sh "$build"
gate exports tools/check_exports.sh "$build"
gate cppcheck check_cppcheck
[ ${#failed[@]} = 0 ] || { echo "lint: failed: ${failed[*]}"; exit 1; }
echo "lint: all gates passed"
