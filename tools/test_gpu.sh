#!/usr/bin/env bash
# The tests that need a GPU, on a machine with an NVIDIA driver and device; without one: says so, and succeeds.
#
#   tools/test_gpu.sh BUILD      a build folder, or one that tools/gpu_carry.sh made
set -euo pipefail
build=$(realpath "${1:?which build folder}")
cd "$(dirname "$0")/.."
if ! ls /dev/nvidia[0-9]* >/dev/null 2>&1; then
    echo "test-gpu: skipped: no NVIDIA device on this machine (/dev/nvidia0 is missing)"
    exit 0
fi
. tools/gpu_env.sh
real=$build/tests/unit/gpu/test_gpu_real
[ -x "$real" ] || { echo "test-gpu: $real is not built"; exit 1; }
failed=0
"$real" || failed=1
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        echo "test-gpu: compute-sanitizer $tool"
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$real" >"/tmp/test-gpu-$tool.$$" 2>&1 || { tail -40 "/tmp/test-gpu-$tool.$$"; failed=1; }
        rm -f "/tmp/test-gpu-$tool.$$"
    done
else
    echo "test-gpu: compute-sanitizer is not here: left out"
fi
"$GPU_PYTHON" -m pytest -q -p no:cacheprovider tests/python/test_gpu.py tests/python/test_gpu_tier.py tests/python/test_gpu_frameworks.py || failed=1
exit $failed
