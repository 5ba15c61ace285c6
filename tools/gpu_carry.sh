#!/usr/bin/env bash
# Prepares a folder with which `make test-gpu CARRY=FOLDER` and `make bench-gpu CARRY=FOLDER` work on a machine that has an NVIDIA driver, CUDA and
# Python (with PyTorch, if the comparison is wanted), but no network, none of our packages and no root: the finished build, the shared libraries it
# needs but for the C library's own, UCX with its modules, and pytest. Run it where the build was made; the other machine needs a C library as new as
# this one's (it is printed) and the tree of the sources.
#
#   tools/gpu_carry.sh BUILD FOLDER
set -euo pipefail
build=$(realpath "${1:?which build folder}")
out=$(realpath -m "${2:?which folder to make}")
cd "$(dirname "$0")/.."
python=$([ -x "${VENV:-.venv}/bin/python" ] && echo "$PWD/${VENV:-.venv}/bin/python" || command -v python3)
rm -rf "$out"
mkdir -p "$out/master" "$out/tests/unit/gpu" "$out/tests/fake_cuda" "$out/python_tests" "$out/carry/lib/ucx" "$out/carry/site"

cp -rL "$build/python" "$out/python"
cp "$build/master/mooncake_master" "$out/master/"
cp "$build/tests/unit/gpu/test_gpu_real" "$out/tests/unit/gpu/"
cp -L "$build/tests/fake_cuda/libcuda.so.1" "$out/tests/fake_cuda/"
cp "$build/python_tests/dlpack_peer.abi3.so" "$out/python_tests/"
cp -L "$build/libmcstore.so" "$out/"
kernels="with the CUDA kernels"
if [ -e "$build/gpu/paged.fatbin" ]; then
    mkdir -p "$out/gpu" && cp "$build/gpu/paged.fatbin" "$out/gpu/"
else
    kernels="WITHOUT the CUDA kernels (there was no nvcc here): copies only"
fi

# UCX is loaded at run time, so nothing names it.
ucx=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p | awk '$1 == "libucp.so.0" && found++ == 0 { print $NF }')
[ -n "$ucx" ] || { echo "gpu_carry: libucp.so.0 is not installed here" >&2; exit 1; }
folder=$(dirname "$ucx")
cp -L "$folder"/libuc[ptsm].so.0 "$out/carry/lib/"
[ ! -d "$folder/ucx" ] || cp -L "$folder"/ucx/*.so* "$out/carry/lib/ucx/"

# What belongs to the C library must be the other machine's.
system='^(linux-vdso|ld-linux.*|libc|libm|libdl|libpthread|librt|libresolv|libnss_.*|libgcc_s)\.so'
find "$out" -type f \( -name '*.so*' -o -perm -u+x \) -print0 | xargs -0 -r ldd 2>/dev/null |
    awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u | while read -r library; do
    name=$(basename "$library")
    [[ $name =~ $system ]] || [ -e "$out/carry/lib/$name" ] || cp -L "$library" "$out/carry/lib/"
done

"$python" - "$out/carry/site" <<'PY'
import importlib.metadata as metadata, pathlib, shutil, sys
target = pathlib.Path(sys.argv[1])
for package in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        if package == "pygments":  # newer versions of pytest need it
            continue
        sys.exit(f"gpu_carry: the Python package {package} is not installed here")
    for file in files:
        if ".." not in file.parts and "__pycache__" not in file.parts:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), target / file)
PY
find "$out" -name __pycache__ -prune -exec rm -rf {} +
echo "gpu_carry: $out: $(du -sh "$out" | cut -f1), $kernels, $(find "$out/carry/lib" -name '*.so*' | wc -l) libraries; needs glibc $(ldd --version | sed -n '1s/.* //p') or newer, Python 3.10 or newer"
