#!/usr/bin/env bash
# cppcheck for errors, warnings, performance and portability; tools/cppcheck.supp excuses, each line with its reason.
set -euo pipefail
. "$(dirname "$0")/sources.sh"
command -v cppcheck >/dev/null || { echo "cppcheck is missing (make deps-lint)" >&2; exit 1; }
mapfile -t files < <(sources 'core/*.c' 'master/*.c' 'ucx_transport/*.c' 'gpu/*.c' 'python/*.c')
[ ${#files[@]} -gt 0 ] || exit 0
cppcheck -q -j "$(nproc)" --std=c11 --language=c --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
    --suppressions-list=tools/cppcheck.supp --template='{file}:{line}: {severity}: {message} [{id}]' \
    -D_GNU_SOURCE '-DPy_RETURN_NONE=return Py_None' '-DPy_RETURN_TRUE=return Py_True' '-DPy_RETURN_FALSE=return Py_False' -D__linux__ -D__x86_64__ -I. -Icore/include "${files[@]}"
