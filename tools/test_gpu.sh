#!/usr/bin/env bash
# The tests that need a GPU, on a machine with an NVIDIA driver and device; without one: says so, and succeeds.
#
#   tools/test_gpu.sh BUILD [ARGUMENTS OF PYTEST]      a build folder, or one that tools/gpu_carry.sh made
set -euo pipefail
build=$(realpath "${1:?which build folder}")
shift
cd "$(dirname "$0")/.."
. tools/gpu_env.sh
real=$build/tests/unit/gpu/test_gpu_real
[ -x "$real" ] || { echo "test-gpu: $real is not built"; exit 1; }
failed=0
"$real" || failed=1
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1 || true)
if [ -n "${MCS_GPU_DRY:-}" ]; then
    echo "test-gpu: compute-sanitizer: left out in a dry run"
elif [ -n "$sanitizer" ]; then
    # Calls of the driver that fail are the tests' own matter: some are meant to.
    for tool in memcheck racecheck initcheck; do
        echo "test-gpu: compute-sanitizer $tool"
        said=$(mktemp)
        "$sanitizer" --tool "$tool" --report-api-errors no --error-exitcode 9 "$real" >"$said" 2>&1 || { tail -n 40 "$said"; failed=1; }
        rm -f "$said"
    done
else
    echo "test-gpu: compute-sanitizer is not here: left out"
fi
"$GPU_PYTHON" -m pytest -q -rs -p no:cacheprovider tests/python/test_gpu.py tests/python/test_gpu_tier.py tests/python/test_gpu_tensors.py tests/python/test_gpu_frameworks.py "$@" || failed=1
exit $failed
