#!/usr/bin/env bash
# clang-tidy (.clang-tidy) over the C files of the tree, with the compile commands of a build.
#
#   tools/tidy.sh BUILD [FILE...]
set -euo pipefail
build=$(realpath "${1:?which build folder}")
shift
. "$(dirname "$0")/sources.sh"
tool=$(command -v clang-tidy-14 || command -v clang-tidy) || { echo "tidy: clang-tidy is missing" >&2; exit 1; }
[ $# -gt 0 ] || mapfile -t files < <(sources 'core/*.c' 'master/*.c' 'ucx_transport/*.c' 'gpu/*.c' 'python/*.c')
[ $# = 0 ] || files=("$@")
# gcc's own warning flags are unknown to clang, which is no finding.
printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P "$(nproc)" "$tool" -p "$build" --quiet \
    --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-error 2>/dev/null
