#!/usr/bin/env bash
# Every public header compiles alone, as C11 and as C++17, with nothing but core/include on the path. Every internal header compiles alone
# as the C that the tree is written in.
#
#   tools/check_headers.sh BUILD    (BUILD has generated/ from a build)
set -euo pipefail
build=$(realpath "${1:?which build folder}")
. "$(dirname "$0")/sources.sh"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export scratch build

public() {
    local header=$1 as=$2 std=$3 compiler=$4
    if ! "$compiler" -x "$as" -std="$std" -Wall -Wextra -Wpedantic -Werror -fsyntax-only -Icore/include \
        -include "$header" /dev/null 2>"$scratch/$(tr / _ <<<"$header").$std"; then
        echo "$header:1: does not compile alone as $std"
        sed -n '1,5s/^/    /p' "$scratch/$(tr / _ <<<"$header").$std"
        return 1
    fi
}

internal() {
    local header=$1 flags
    flags=$(pkg-config --cflags libprotobuf-c libuv libmicrohttpd jansson yaml-0.1 libpcre2-8 libcrypto libcurl libxxhash ucx 2>/dev/null || true)
    [[ $header != python/* ]] || flags+=" -I$PYTHON_INCLUDE -DPy_LIMITED_API=0x030B0000"
    [[ $header != tests/* ]] || flags+=" -include stdarg.h -include stddef.h -include stdint.h -include setjmp.h"
    # shellcheck disable=SC2086
    if ! gcc -x c -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -fsyntax-only -I. -Icore/include -isystem "$build/generated" $flags \
        -include "$header" /dev/null 2>"$scratch/$(tr / _ <<<"$header")"; then
        echo "$header:1: does not compile alone"
        sed -n '1,5s/^/    /p' "$scratch/$(tr / _ <<<"$header")"
        return 1
    fi
}
export -f public internal

python=$( [ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
PYTHON_INCLUDE=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
export PYTHON_INCLUDE

status=0
mapfile -t publics < <(sources 'core/include/*.h')
mapfile -t internals < <(sources 'core/*.h' 'master/*.h' 'client/*.h' 'ucx_transport/*.h' 'gpu/*.h' 'python/*.h' 'tests/*.h' | grep -v '^core/include/')
for header in "${publics[@]}"; do
    public "$header" c c11 gcc || status=1
    public "$header" c++ c++17 g++ || status=1
done
if [ ${#internals[@]} -gt 0 ]; then
    printf '%s\0' "${internals[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -c 'internal "$1"' _ || status=1
fi
[ ${#publics[@]} -gt 0 ] || { echo "core/include:1: no public header found"; status=1; }
echo "check_headers: ${#publics[@]} public and ${#internals[@]} internal headers$([ $status = 0 ] || echo ', see above')"
exit $status
