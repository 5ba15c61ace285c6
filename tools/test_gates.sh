#!/usr/bin/env bash
# Tests the gates: each must refuse a tree with the one thing that it is there to find, and pass without it. A gate that never fails is no gate.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
status=0

# A tree as small as the gates allow, with this folder's tools.
mkdir -p "$scratch"/{core/base,core/segment,core/include/mcstore,docs,gpu,master,tests/unit}
cp -r tools .clang-format "$scratch/"
cd "$scratch"
git init -q .
printf '#ifndef A_H\n#define A_H\nint mcs_a(int a);\n#endif\n' | tee core/include/mcstore/a.h >core/base/a.h
printf '#include "core/base/a.h"\n\nint mcs_a(int a)\n{\n    return a;\n}\n' >core/base/a.c

gate() { # NAME
    case $1 in
    cppcheck) tools/cppcheck.sh ;;
    headers) tools/check_headers.sh . ;;
    format) tools/format.sh --check ;;
    *) if [ -e "tools/check_$1.py" ]; then "tools/check_$1.py"; else "tools/check_$1.sh"; fi ;;
    esac
}

refuses() { # GATE FILE TEXT: the gate fails with the file and names it
    local before=
    [ ! -e "$2" ] || before=$(cat "$2")
    printf "$3" >"$2"
    if gate "$1" >out 2>&1; then
        echo "test_gates: $1 let pass: $2: $3"
        status=1
    elif ! grep -q "^$2:[0-9]" out; then
        echo "test_gates: $1 failed without naming $2: $(head -n 3 out)"
        status=1
    fi
    if [ -n "$before" ]; then printf '%s\n' "$before" >"$2"; else rm "$2"; fi
}

printf 'typedef enum rank { MCS_RANK_ONE = 10, MCS_RANK_LEAF = 20 } rank_t;\n' >core/base/lock.h
printf '| rank | lock |\n|---|---|\n| ONE | one |\n| LEAF | last |\n' >docs/locking.md

for name in format deps banned text size headers locks cppcheck; do
    gate "$name" >out 2>&1 || { echo "test_gates: $name refuses a clean tree: $(cat out)"; status=1; }
done

refuses format core/base/b.c 'int   b;\n'
refuses deps core/base/b.c '#include "core/segment/s.h"\n'
refuses deps core/base/b.c '#include "core/base/missing.h"\n'
refuses deps core/segment/b.c '#include <ucp/api/ucp.h>\n'
refuses deps core/segment/b.c '#include "master/master.h"\n'
refuses deps master/b.c '#include "core/segment/segment.h"\n'
refuses deps master/b.c '#include <microhttpd.h>\n'
refuses deps core/base/b.c '#  include <Python.h>\n'
refuses deps stray.c 'int x;\n'
refuses banned core/base/b.c 'void b(char *p) { free(p); }\n'
refuses banned core/base/b.c 'const char *b(void) { return getenv("HOME"); }\n'
refuses banned core/base/b.c 'void b(char *p) { /* fine */ strcpy(p, "x"); }\n'
refuses banned core/base/b.c 'int b(void) { return pthread_mutex_lock(0); }\n'
refuses banned core/base/b.c 'int b(int *p) { return MCS_MAX(__atomic_exchange_n(p, 0, 0), 1); }\n'
refuses banned gpu/b.def 'CUDA_SYMBOL(ctx_wait, cuCtxSynchronize, 2000, MUST, (void))\n'
refuses banned tests/unit/b.c 'void b(void) { usleep(1); }\n'
refuses locks docs/locking.md '| LEAF | last |\n| ONE | one |\n'
refuses locks docs/locking.md '| ONE | one |\n| TWO | two |\n| LEAF | last |\n'
refuses locks gpu/b.c 'void b(void)\n{\n    mcs_mutex_lock(&l);\n    driver->ctx_pop(0);\n    mcs_mutex_unlock(&l);\n}\n'
refuses locks gpu/b.c 'static int b_locked(void)\n{\n    return CUDA_TRY(driver, device, x, (1));\n}\n'
refuses locks core/segment/b.c 'void b(void)\n{\n    mcs_rwlock_rdlock(&l);\n    space_ops->look(s);\n    mcs_rwlock_rdunlock(&l);\n}\n'
refuses text core/base/b.c 'int b; /* see ..''/shared/x */\n'
refuses text core/base/b.c '/* TO''DO: later */\n'
refuses text core/base/b.c '\tint b;\n'
refuses size core/base/b.c "int b(int a)\n{\n$(for i in $(seq 30); do printf 'if (a == %d) { a++; }\\n' "$i"; done)return a;\n}\n"
refuses size core/base/b.c "int b(int a)\n{\n$(printf 'a++;\\n%.0s' $(seq 160))return a;\n}\n"
refuses headers core/include/mcstore/b.h 'mcs_unknown_t b(void);\n'
refuses headers core/include/mcstore/b.h 'int b(int class);\n'
refuses headers core/base/b.h 'size_t b(void);\n'
refuses cppcheck core/base/b.c 'int b(void)\n{\n    int a[2] = {0};\n    return a[2];\n}\n'

# What is no violation: comments, strings, members, longer names, an excused line.
printf '/* free(p) and getenv() */\nconst char *b(void) { return "strcpy(a)"; }\nvoid mcs_free(void *p);\nint c(struct o *o) { return o->free(1); }\nint d(void) { return malloc(1) != 0; } /* banned-ok: malloc: a test of the excuse */\n' >core/base/b.c
tools/check_banned.py >out || { echo "test_gates: banned refuses what is fine: $(cat out)"; status=1; }

[ $status = 0 ] && echo "test_gates: every gate refuses what it is for"
exit $status
