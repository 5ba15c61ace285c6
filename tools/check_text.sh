#!/usr/bin/env bash
# Words that must not be in the tree: paths outside it, and leftovers of how the work was done. Merge markers, tabs in C, trailing blanks.
set -euo pipefail
. "$(dirname "$0")/sources.sh"
status=0

# The bracketed letters keep this file from finding itself.
refuse() { # PATTERN WHY GLOB...
    local pattern=$1 why=$2
    shift 2
    mapfile -t files < <(sources "$@")
    [ ${#files[@]} -gt 0 ] || return 0
    local found
    found=$(grep -InE -- "$pattern" "${files[@]}" /dev/null || true)
    [ -n "$found" ] || return 0
    while IFS= read -r line; do
        printf '%s: %s\n' "$(cut -d: -f1,2 <<<"$line")" "$why"
    done <<<"$found"
    status=1
}

refuse '\.\./[s]hared|/work/[a-z.]+/|/tmp/[b]rief' 'names a path outside the tree' '*'
refuse '([Ii]ssue|ISSUE) #?[0-9]+' 'names an issue: say what and why instead' '*'
refuse '\b(T[O]DO|F[I]XME|X[X]X|H[A]CK)[:(]' 'unfinished work: finish it, or describe the limit' '*.c' '*.h' '*.py' '*.sh' '*.md' '*.txt' 'Makefile' '*.cmake'
refuse '^(<{7}|>{7}) ' 'merge marker' '*'
refuse '[ '$'\t'']+$' 'trailing blanks' '*.c' '*.h' '*.py' '*.sh' '*.txt' '*.cmake' '*.def' 'Makefile'
refuse $'\t' 'tab in C' '*.c' '*.h'
[ $status = 0 ] && echo "check_text: clean" || echo "check_text: see above"
exit $status
