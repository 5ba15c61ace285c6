# Sourced by test_gpu.sh and bench_gpu.sh with $build set: the environment for a build tree, or for a folder of gpu_carry.sh, which brings its own
# libraries and Python packages.
export MCS_BUILD_DIR=$build MCS_TEST_CUDA=real PYTHONPATH=$build/python
export PATH=$build/master:$PATH
GPU_PYTHON=$([ -x "${VENV:-.venv}/bin/python" ] && echo "${VENV:-.venv}/bin/python" || command -v python3)
if [ -d "$build/carry" ]; then
    GPU_PYTHON=$(command -v python3)
    export PYTHONPATH=$PYTHONPATH:$build/carry/site
    # Only what this machine lacks: its own programs must keep the libraries that they were built with.
    mkdir -p "$build/carry/missing"
    have=$(ldconfig -p | awk '{ print $1 }')
    for library in "$build"/carry/lib/*.so*; do
        name=$(basename "$library")
        if ! grep -qxF "$name" <<<"$have"; then
            ln -sf "../lib/$name" "$build/carry/missing/$name"
        fi
    done
    export LD_LIBRARY_PATH=$build/carry/missing${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    if [ -e "$build/carry/missing/libucp.so.0" ]; then
        export UCX_MODULE_DIR=$build/carry/lib/ucx MC_STORE_UCX_LIB=$build/carry/missing/libucp.so.0
    fi
fi
