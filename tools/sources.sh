# Sourced by the gates: which files there are. Tracked files and new ones that git does not ignore; deleted ones are left out.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

sources() { # GLOB... -> existing paths, one a line
    git ls-files -co --exclude-standard -- "$@" | sort -u | while read -r path; do
        [ ! -f "$path" ] || echo "$path"
    done
}
