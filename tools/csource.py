"""C text for the gates: which files there are, comments and strings blanked, includes found.

Not a parser: the gates look for tokens and need them not to be comment or string text.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_NOISE = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'""",
    re.VERBOSE | re.DOTALL,
)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^">]+)[">]', re.MULTILINE)


def list_files(*globs: str) -> list[str]:
    """Paths below ROOT of tracked files and of new ones that git does not ignore."""
    out = subprocess.run(
        ["git", "ls-files", "-co", "-z", "--exclude-standard", "--", *globs],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout
    return sorted({path for path in out.split("\0") if path and (ROOT / path).is_file()})


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def code_only(text: str) -> str:
    """The text with comments and literals replaced by blanks: line numbers stay."""
    def blank(match: re.Match) -> str:
        found = match.group(0)
        kept = re.sub(r"[^\n]", " ", found)
        return found[0] + kept[1:-1] + found[-1] if found[0] in "\"'" else kept
    return _NOISE.sub(blank, text)


def comments_blanked(text: str) -> str:
    """As code_only, but strings stay: an include's path is one."""
    return _NOISE.sub(lambda m: m.group(0) if m.group(0)[0] in "\"'" else re.sub(r"[^\n]", " ", m.group(0)), text)


def includes(text: str) -> list[tuple[int, bool, str]]:
    """(line, is_system, path) of each #include."""
    clean = comments_blanked(text)
    return [(clean.count("\n", 0, m.start()) + 1, m.group(1) == "<", m.group(2)) for m in _INCLUDE.finditer(clean)]
