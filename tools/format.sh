#!/usr/bin/env bash
# clang-format for every C file: in place, or with --check only named. Version 14 (Debian 12's) decides: others break lines differently.
set -euo pipefail
. "$(dirname "$0")/sources.sh"
tool=$(command -v clang-format-14 || command -v clang-format) || { echo "format: clang-format-14 is missing (make deps-lint)" >&2; exit 1; }
"$tool" --version | grep -q 'version 14\.' || { echo "format: $("$tool" --version): version 14 is needed" >&2; exit 1; }

mapfile -t files < <(sources '*.c' '*.h' '*.cu')
[ ${#files[@]} -gt 0 ] || exit 0
if [ "${1:-}" != --check ]; then
    "$tool" -i "${files[@]}"
    exit 0
fi
# Printed as file:line:col: error: code should be clang-formatted.
found=$("$tool" --dry-run -Werror --ferror-limit=1 "${files[@]}" 2>&1 | grep ': error:' || true)
[ -n "$found" ] || exit 0
printf '%s\nformat: %d files differ: run make format\n' "$found" "$(wc -l <<<"$found")"
exit 1
