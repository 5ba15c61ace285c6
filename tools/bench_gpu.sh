#!/usr/bin/env bash
# The GPU benchmark, on a machine with an NVIDIA driver and device; without one: says so, and succeeds.
#
#   tools/bench_gpu.sh BUILD [ARGUMENTS OF bench/bench_gpu.py]
set -euo pipefail
build=$(realpath "${1:?which build folder}")
shift
cd "$(dirname "$0")/.."
. tools/gpu_env.sh
"$GPU_PYTHON" bench/bench_gpu.py "$@"
