#!/usr/bin/env bash
# Installs what the build needs and the machine lacks: Debian packages by apt, Python packages into .venv.
#
#   tools/deps.sh [GROUP...]        groups of tools/packages.txt; "build test" when none is given
#
# Safe to run again and quick when nothing is missing: a stamp in build/.deps names the lists it was made from, and dpkg-query is
# asked whether the packages are still there. Needs root or sudo only when something is missing. MCS_SKIP_DEPS=1 makes it do nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

[ "${MCS_SKIP_DEPS:-0}" != 1 ] || exit 0
groups=("$@")
[ ${#groups[@]} -gt 0 ] || groups=(build test)
stamps=build/.deps
venv=${VENV:-.venv}
export DEBIAN_FRONTEND=noninteractive

say() { printf 'deps: %s\n' "$*"; }
die() {
    printf 'deps: %s\n' "$*" >&2
    exit 1
}

# Entries of the chosen groups, alternatives kept ("a|b").
wanted() {
    awk -v groups="${groups[*]}" '
        BEGIN { n = split(groups, g, " "); for (i = 1; i <= n; i++) take[g[i]] = 1 }
        /^[^#]/ && NF == 2 && ($1 in take) { print $2 }' tools/packages.txt
}

have() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# One dpkg-query for the plain entries; the few with alternatives one by one.
missing() {
    local entry name found
    mapfile -t plain < <(wanted | grep -v '|' || true)
    local installed
    installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${plain[@]}" 2>/dev/null | awk '$2 == "installed" { print $1 }' || true)
    for entry in "${plain[@]}"; do
        grep -qxF -- "$entry" <<<"$installed" || echo "$entry"
    done
    while read -r entry; do
        found=0
        for name in ${entry//|/ }; do
            ! have "$name" || found=1
        done
        [ $found = 1 ] || echo "$entry"
    done < <(wanted | grep '|' || true)
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo --preserve-env=DEBIAN_FRONTEND "$@"
    fi
}

# Asks for the password once, before apt's tries and with the terminal still there.
need_root() {
    [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo true; } ||
        die "packages are missing and root rights could not be had; as root: apt-get install ${todo[*]%%|*}"
}

# apt may find its lists or dpkg locked by an unattended upgrade, or the mirror may hiccup: a few tries, then give up loudly.
try_apt() {
    local try
    for try in 1 2 3 4 5; do
        if as_root apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null >"$stamps/apt.log" 2>&1; then
            return 0
        fi
        [ $try = 5 ] || { say "apt-get $1 failed (try $try of 5), again in $((try * 3)) s: $(grep -m1 '^E:' "$stamps/apt.log" || true)"; sleep $((try * 3)); }
    done
    tail -n 20 "$stamps/apt.log" >&2
    return 1
}

# "a|b" -> the first that is known to apt.
choose() {
    local name
    for name in ${1//|/ }; do
        if apt-cache show --no-all-versions "$name" >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    echo "${1%%|*}"
}

install_packages() {
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        say "not a Debian machine: install what tools/packages.txt lists by your own means (groups: ${groups[*]})"
        return
    fi
    mapfile -t todo < <(missing)
    if [ ${#todo[@]} = 0 ]; then
        return
    fi
    say "missing packages (${#todo[@]}): ${todo[*]}"
    need_root
    try_apt update || say "apt-get update failed; going on with the lists there are"
    local entry names=()
    for entry in "${todo[@]}"; do
        names+=("$(choose "$entry")")
    done
    say "installing with apt-get (this takes a minute or two) …"
    try_apt install -y --no-install-recommends "${names[@]}" ||
        die "apt-get install failed; the whole output is in $stamps/apt.log"
    mapfile -t todo < <(missing)
    [ ${#todo[@]} = 0 ] || die "still missing after apt-get install: ${todo[*]}"
}

# The module is built with the headers of the interpreter that runs it, so the interpreter must have both venv and headers. Debian's own
# has them by now; another python3 on PATH (pyenv, conda) is taken only where there is no Debian one.
pick_python() {
    local python
    for python in ${PYTHON:-} /usr/bin/python3 python3; do
        if command -v "$python" >/dev/null && "$python" - <<'CHECK' >/dev/null 2>&1; then
import ensurepip, os, sys, sysconfig, venv
assert sys.version_info >= (3, 11)
assert os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
CHECK
            command -v "$python"
            return
        fi
    done
    die "no Python >= 3.11 with the venv module and headers (Debian: python3-venv python3-dev; or set PYTHON=/path/to/python3)"
}

make_venv() {
    local python stamp_file="$venv/.mcs-requirements" stamp
    stamp=$(sha256sum tools/requirements.txt | cut -c1-16)
    if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp_file" 2>/dev/null)" = "$stamp" ] && "$venv/bin/python" -c '' 2>/dev/null; then
        return
    fi
    python=$(pick_python)
    say "making $venv with $python, and installing $(grep -v '^#' tools/requirements.txt | tr '\n' ' ')…"
    rm -rf "$venv"
    "$python" -m venv "$venv" || die "$python -m venv $venv failed"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --retries 5 -r tools/requirements.txt </dev/null ||
        die "pip could not install tools/requirements.txt into $venv"
    echo "$stamp" >"$stamp_file"
}

mkdir -p "$stamps"
# Two makes at once (a developer and an editor) must not run apt or fill .venv together.
exec 9>"$stamps/lock"
flock 9
list_hash=$(cat tools/packages.txt tools/requirements.txt | sha256sum | cut -c1-16)
stamp="$stamps/$(IFS=+; echo "${groups[*]}").$list_hash"
if [ -e "$stamp" ] && [ -x "$venv/bin/python" ] && [ -z "$(missing)" ]; then
    exit 0
fi
install_packages
make_venv
touch "$stamp"
say "complete (${groups[*]})"
