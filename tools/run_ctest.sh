#!/usr/bin/env bash
# Runs ctest. In CI, where the load of others can break a test that waits for time, what failed gets one more try, alone, and is named. A
# sanitizer's report never does; but what a test has not freed because an assertion of its failed is none.
#
#   tools/run_ctest.sh BUILD [options of ctest]
set -uo pipefail
build=${1:?which build folder}
shift
ctest --test-dir "$build" --output-on-failure "$@" && exit 0
result=$?
logs=$build/Testing/Temporary

# Of each test: a report of a leak counts when no assertion failed before it, every other one always.
reports() {
    awk '/^[0-9]+\/[0-9]+ Testing: / { failed = 0 }
        /^\[  FAILED  \]/ { failed = 1 }
        /(Thread|Address|UndefinedBehavior)Sanitizer: / && !/SUMMARY|thread leak|bytes? leaked/ { found = 1 }
        /runtime error: / { found = 1 }
        /LeakSanitizer: |ThreadSanitizer: thread leak/ && !failed { found = 1 }
        END { exit !found }' "$1"
}

if [ -z "${CI:-}" ] || [ ! -e "$logs/LastTestsFailed.log" ] || reports "$logs/LastTest.log"; then
    exit "$result"
fi
echo "ctest: one more try, one by one, of: $(cut -d: -f2 "$logs/LastTestsFailed.log" | xargs)"
exec ctest --test-dir "$build" --output-on-failure --rerun-failed
