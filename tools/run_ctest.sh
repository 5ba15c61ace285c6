#!/usr/bin/env bash
# Runs ctest. In CI, where the load of others can break a test that waits for time, what failed gets one more try, alone, and is named. A
# sanitizer's report never does.
#
#   tools/run_ctest.sh BUILD [options of ctest]
set -uo pipefail
build=${1:?which build folder}
shift
ctest --test-dir "$build" --output-on-failure "$@" && exit 0
result=$?
logs=$build/Testing/Temporary
if [ -z "${CI:-}" ] || [ ! -e "$logs/LastTestsFailed.log" ] ||
    grep -qE '(Thread|Address|Leak|UndefinedBehavior)Sanitizer|runtime error: ' "$logs/LastTest.log"; then
    exit "$result"
fi
echo "ctest: one more try, one by one, of: $(cut -d: -f2 "$logs/LastTestsFailed.log" | xargs)"
exec ctest --test-dir "$build" --output-on-failure --rerun-failed
