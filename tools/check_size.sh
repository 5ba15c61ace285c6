#!/usr/bin/env bash
# Sizes that deserve a look: warns at complexity 15, function 80 lines, file 1000 lines; fails at 25, 150 and 1500.
# tools/size_allow.txt excuses single ones, each with a reason: "FUNCTION-OR-FILE  REASON".
set -euo pipefail
. "$(dirname "$0")/sources.sh"
command -v pmccabe >/dev/null || { echo "check_size: pmccabe is missing (make deps-lint)" >&2; exit 1; }
status=0 warnings=0

allowed() { # PATH:NAME or PATH
    grep -qE "^$(sed 's/[][\.*^$]/\\&/g' <<<"$1")[[:space:]]+[^[:space:]]" tools/size_allow.txt
}

judge() { # WHERE ID WHAT VALUE WARN FAIL
    [ "$4" -ge "$5" ] || return 0
    if [ "$4" -ge "$6" ] && ! allowed "$2"; then
        echo "$1: $3 is $4 (limit $6; tools/size_allow.txt takes exceptions with a reason)"
        status=1
    else
        [ "${VERBOSE:-0}" != 1 ] || echo "$1: note: $3 is $4 (look at $5)"
        warnings=$((warnings + 1))
    fi
}

mapfile -t code < <(sources '*.c' | grep -v '^tests/')
mapfile -t all < <(sources '*.c' '*.h' '*.cu' '*.py')
if [ ${#code[@]} -gt 0 ]; then
    # modified complexity, traditional complexity, statements, first line, lines, file(line): name
    while read -r complexity _ _ _ lines where name; do
        path=${where%%(*}
        line=$(sed 's/.*(\([0-9]*\)).*/\1/' <<<"$where")
        judge "$path:$line" "$path:$name" "complexity of $name" "$complexity" 15 25
        judge "$path:$line" "$path:$name" "length of $name" "$lines" 80 150
    done < <(pmccabe "${code[@]}" 2>/dev/null | awk '$1 >= 15 || $5 >= 80')
fi
while read -r lines path; do
    [ "$path" = total ] || judge "$path:1" "$path" "length of the file" "$lines" 1000 1500
done < <(wc -l "${all[@]}" | awk '$1 >= 1000')
# Half the tail: the longest tenth of the functions starts here.
p90=$(pmccabe "${code[@]}" 2>/dev/null | awk '{ print $5 }' | sort -n | awk '{ a[NR] = $1 } END { print a[int(NR * 0.9) + 1] + 0 }')
if [ "${p90:-0}" -gt 50 ]; then
    echo "check_size: nine tenths of the functions should be at most 50 lines long; now $p90"
    status=1
fi
echo "check_size: ${#all[@]} files, p90 of function length $p90, $warnings to look at$([ $status = 0 ] || echo ", limits crossed")"
exit $status
