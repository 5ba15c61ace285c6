#!/usr/bin/env bash
# The tests labelled "gpu", on a machine with an NVIDIA driver and device. Without one: says so, and succeeds.
set -euo pipefail
build=${1:?which build folder}
if ! ls /dev/nvidia[0-9]* >/dev/null 2>&1; then
    echo "test-gpu: skipped: no NVIDIA device on this machine (/dev/nvidia0 is missing)"
    exit 0
fi
if ! ctest --test-dir "$build" -N -L gpu | grep -q 'Total Tests: [1-9]'; then
    echo "test-gpu: skipped: this version of the store has no GPU tests yet"
    exit 0
fi
ctest --test-dir "$build" --output-on-failure -L gpu
