#!/usr/bin/env bash
# What the built files export and need: the Python module exports its init function alone, and nothing links to what is loaded at run time
# (UCX, CUDA) or brought by the process (libpython).
#
#   tools/check_exports.sh BUILD
set -euo pipefail
build=$(realpath "${1:?which build folder}")
. "$(dirname "$0")/sources.sh"
status=0 checked=0

# The libraries that may stand in NEEDED, for any artefact.
allowed='^(libc|libm|libpthread|librt|libdl|ld-linux-[a-z0-9-]+|ld-linux-aarch64|libgcc_s|libatomic'
allowed+='|libxxhash|libprotobuf-c|libuv|libmicrohttpd|libcurl(-gnutls)?|libjansson|libyaml-0|libpcre2-8|libnuma|libcrypto|libssl'
allowed+=')\.so(\.|$)'

refuse() {
    echo "$1"
    status=1
}

exports_of() {
    nm -D --defined-only "$1" | awk '$2 ~ /^[TDBRVWi]$/ { print $3 }' | sed 's/@.*//' | sort -u
}

check_needed() {
    local lib
    while read -r lib; do
        [[ $lib =~ $allowed ]] || refuse "$1: NEEDED $lib: not on the list of tools/check_exports.sh (UCX and CUDA are loaded at run time, Python brings itself)"
    done < <(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
}

check_hardening() {
    readelf -lW "$1" | grep 'GNU_STACK.*RW ' >/dev/null || refuse "$1: executable stack"
    readelf -lW "$1" | grep GNU_RELRO >/dev/null || refuse "$1: no RELRO"
    readelf -dW "$1" | grep 'BIND_NOW\|(FLAGS_1).*NOW' >/dev/null || refuse "$1: not bound at load time (-z now)"
    ! readelf -dW "$1" | grep '(TEXTREL)' >/dev/null || refuse "$1: text relocations"
}

exact_exports() { # FILE EXPECTED
    local found
    found=$(exports_of "$1" | tr '\n' ' ')
    [ "$found" = "$2 " ] || refuse "$1: exports \"${found% }\", expected \"$2\""
}

module=$build/python/mooncake/store.abi3.so
if [ -e "$module" ]; then
    exact_exports "$module" PyInit_store
    check_needed "$module"
    check_hardening "$module"
    # Names outside the limited API (underscored ones) would tie the module to one Python version.
    while read -r symbol; do
        refuse "$module: uses $symbol, which is not in the limited API"
    done < <(nm -D --undefined-only "$module" | awk '{ print $2 }' | grep -E '^_Py' | grep -vxE '_Py_(Dealloc|NoneStruct|TrueStruct|FalseStruct|NotImplementedStruct|EllipsisObject|IncRef|DecRef)|_Py_BuildValue_SizeT|_PyArg_ParseTuple(AndKeywords)?_SizeT|_PyArg_Parse_SizeT|_PyObject_CallFunction_SizeT|_PyObject_CallMethod_SizeT' || true)
    checked=$((checked + 1))
elif [ -e python/CMakeLists.txt ]; then
    refuse "$module: not built"
fi
# The shared library exports what its public headers mark, and nothing else.
library=$build/libmcstore.so
if [ -e "$library" ]; then
    exact_exports "$library" "$(grep -hoE '^MCSTORE_API[^(]*' core/include/mcstore/*.h | grep -oE '[a-z_0-9]+ *$' | sort -u | xargs)"
    check_needed "$library"
    check_hardening "$library"
    checked=$((checked + 1))
else
    refuse "$library: not built"
fi
for program in "$build/master/mooncake_master" "$build"/client/mooncake_client; do
    [ -e "$program" ] || continue
    check_needed "$program"
    check_hardening "$program"
    checked=$((checked + 1))
done
if [ -e master/main.c ] && [ ! -e "$build/master/mooncake_master" ]; then
    refuse "$build/master/mooncake_master: not built"
fi
echo "check_exports: $checked files$([ $status = 0 ] || echo ', see above')"
exit $status
