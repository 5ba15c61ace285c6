# Sourced by test_gpu.sh and bench_gpu.sh with $build set: the environment for a build tree, or for a folder of gpu_carry.sh, which brings its own
# libraries and Python packages. Ends the script, with success, where there is no GPU.
#
# MCS_GPU_DRY=1: on the fake driver of the build, for whoever wants to know that everything runs.
name=$(basename "$0" .sh | tr _ -)
if [ -n "${MCS_GPU_DRY:-}" ]; then
    [ -e "$build/tests/fake_cuda/libcuda.so.1" ] || { echo "$name: $build has no fake driver" >&2; exit 1; }
    echo "$name: a dry run on the fake driver: figures and speeds mean nothing"
    export LD_LIBRARY_PATH=$build/tests/fake_cuda${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
elif ls /dev/nvidia[0-9]* >/dev/null 2>&1; then
    export MCS_TEST_CUDA=real
else
    echo "$name: skipped: no NVIDIA device on this machine (/dev/nvidia0 is missing)"
    exit 0
fi
export MCS_BUILD_DIR=$build PYTHONPATH=$build/python
export PATH=$build/master:$PATH
GPU_PYTHON=$([ -x "${VENV:-.venv}/bin/python" ] && echo "${VENV:-.venv}/bin/python" || command -v python3)
if [ -d "$build/carry" ]; then
    GPU_PYTHON=$(command -v python3)
    export PYTHONPATH=$PYTHONPATH:$build/carry/site
    # Only what this machine lacks: its own programs must keep the libraries that they were built with. The folder may be read-only.
    missing=$(mktemp -d)
    trap 'rm -rf "$missing"' EXIT
    have=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | awk '{ print $1 }' || true)
    for library in "$build"/carry/lib/*.so*; do
        file=$(basename "$library")
        if ! grep -qxF "$file" <<<"$have"; then
            ln -s "$library" "$missing/$file"
        fi
    done
    export LD_LIBRARY_PATH=$missing${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    if [ -e "$missing/libucp.so.0" ]; then
        export UCX_MODULE_DIR=$build/carry/lib/ucx MC_STORE_UCX_LIB=$missing/libucp.so.0
    fi
fi
