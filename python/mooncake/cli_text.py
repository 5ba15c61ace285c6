"""What the commands share: failures with exit codes, tables, sizes for people, progress."""

import json
import sys
import time

# Exit codes, documented in docs/cli.md.
FAILED = 1
USAGE = 2
UNREACHABLE = 3
NOT_FOUND = 4
NOT_SUPPORTED = 5
INTERRUPTED = 130


class Failure(Exception):
    """Ends the command with a message and an exit code."""

    def __init__(self, text, code=FAILED):
        super().__init__(text)
        self.code = code


CODES = {
    -1: "INTERNAL_ERROR", -101: "SEGMENT_NOT_FOUND", -102: "SEGMENT_ALREADY_EXISTS", -103: "CLIENT_NOT_FOUND", -200: "NO_AVAILABLE_HANDLE",
    -400: "INVALID_KEY", -600: "INVALID_PARAMS", -601: "ILLEGAL_CLIENT", -700: "INVALID_WRITE", -703: "REPLICA_IS_NOT_READY",
    -704: "OBJECT_NOT_FOUND", -705: "OBJECT_ALREADY_EXISTS", -706: "OBJECT_HAS_LEASE", -707: "LEASE_EXPIRED",
    -708: "OBJECT_HAS_REPLICATION_TASK", -800: "TRANSFER_FAIL", -801: "CHECKSUM_MISMATCH", -900: "RPC_FAIL", -901: "RPC_TIMEOUT",
    -1010: "UNAVAILABLE_IN_CURRENT_STATUS", -1011: "UNAVAILABLE_IN_CURRENT_MODE", -1012: "NOT_SUPPORTED", -1400: "TASK_NOT_FOUND",
    -1401: "TASK_PENDING_LIMIT_EXCEEDED", -1402: "JOB_NOT_FOUND",
}

HINTS = {
    -200: "no segment has room: free some, lend more memory, or wait for eviction",
    -706: "somebody read it a moment ago; --force removes it all the same",
    -900: "the master cannot be reached",
    -901: "the master does not answer",
}


def code_text(code):
    text = f"{CODES.get(code, 'error')} ({code})"
    return f"{text}: {HINTS[code]}" if code in HINTS else text


def size_text(count):
    """1536 -> "1.50 KiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 1024 or unit == "PiB":
            return f"{int(value)} B" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1024


def percent_text(part, whole):
    return f"{100 * part / whole:.1f} %" if whole else "-"


def seconds_text(seconds):
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds:.2f} s"


def printable(text):
    """A name of somebody else's making on one line of a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_json(value):
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def print_table(heads, rows):
    """Columns whose head begins with ">" are aligned to the right."""
    right = [head.startswith(">") for head in heads]
    cells = [[head.lstrip(">") for head in heads]] + [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    for row in cells:
        line = "  ".join(cell.rjust(width) if r else cell.ljust(width) for cell, width, r in zip(row, widths, right))
        print(line.rstrip())


def print_pairs(pairs):
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"{name.ljust(width)}  {printable(str(value))}")


class Progress:
    """A bar on stderr, when that is a terminal: `with Progress("draining") as bar: bar.show(done, total, "text")`."""

    WIDTH = 30
    INTERVAL = 0.1

    def __init__(self, title, wanted=True):
        self._title = title
        self._on = wanted and sys.stderr.isatty()
        self._drawn = 0
        self._last = 0.0

    def __enter__(self):
        return self

    def show(self, done, total, text=""):
        now = time.monotonic()
        if not self._on or (now - self._last < self.INTERVAL and done < total):
            return
        self._last = now
        share = min(max(done / total, 0.0), 1.0) if total else 0.0
        full = int(share * self.WIDTH)
        line = f"{self._title} [{'#' * full}{'.' * (self.WIDTH - full)}] {100 * share:3.0f} % {text}"
        sys.stderr.write("\r" + line.ljust(self._drawn))
        sys.stderr.flush()
        self._drawn = len(line)

    def __exit__(self, *_):
        if self._on and self._drawn:
            sys.stderr.write("\r" + " " * self._drawn + "\r")
            sys.stderr.flush()
