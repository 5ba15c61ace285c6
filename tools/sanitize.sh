#!/usr/bin/env bash
# Builds and runs the C tests under sanitizers: `asan` is AddressSanitizer with UndefinedBehaviorSanitizer, `tsan` is ThreadSanitizer.
# Tests labelled "ucx" are left out under TSan: an uninstrumented libucp makes reports about itself. The models (label "slow": one thread, no
# memory of their own) run in the plain build alone. Those labelled "journal" map large files, of which TSan needs minutes; they run under ASan.
set -euo pipefail
which=${1:?asan or tsan}
cd "$(dirname "$0")/.."
jobs=${JOBS:-$(nproc)}
build=${BUILD_DIR:-build/$which}
python=$([ -x "${VENV:-.venv}/bin/python" ] && echo "$PWD/${VENV:-.venv}/bin/python" || command -v python3)

mkdir -p build
cmake --preset "$which" -B "$build" "-DPython3_EXECUTABLE=$python" >"build/configure-$which.log" 2>&1 || { cat "build/configure-$which.log"; exit 1; }
cmake --build "$build" -j "$jobs"

export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
case $which in
asan)
    export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:detect_leaks=1
    export LSAN_OPTIONS=suppressions=$PWD/tools/lsan.supp:print_suppressions=0
    tools/run_ctest.sh "$build" -j "$jobs" -LE slow
    ;;
tsan)
    export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:suppressions=$PWD/tools/tsan.supp
    # Newer kernels randomise more address bits than gcc 12's TSan can map; a container may refuse to switch that off.
    fixed=()
    ! setarch "$(uname -m)" -R true 2>/dev/null || fixed=(setarch "$(uname -m)" -R)
    "${fixed[@]}" tools/run_ctest.sh "$build" -j "$jobs" -LE "ucx|slow|journal"
    ;;
*)
    echo "sanitize: asan or tsan" >&2
    exit 2
    ;;
esac
