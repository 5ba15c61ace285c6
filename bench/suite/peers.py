"""What the peers need: the wheel of the original in an environment of its own. Nothing here fails a run: what cannot be had is a reason in words."""

import os
import subprocess
import sys
from pathlib import Path

# The newest release when the suite was written; figures of another one are not comparable.
WHEEL = "mooncake-transfer-engine-non-cuda==0.3.13.post1"
NEEDED = (WHEEL, "numpy>=1.24")


def _venv(folder: Path) -> Path:
    return folder / "venv-mooncake"


def _works(python: Path) -> str:
    """"" or the last line of why not."""
    # -E: a PYTHONPATH with the build's module would hide the wheel's.
    done = subprocess.run([str(python), "-E", "-c", "import numpy, mooncake.store as s; print(s.__file__)"], capture_output=True, text=True)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["?"])[-1]
    found = Path(done.stdout.strip()).resolve()
    return "" if python.parent.parent.resolve() in found.parents else f"it is {found}, not the wheel's"


def prepare_mooncake(folder: Path) -> str:
    """Makes the environment when it is not there (the one thing that needs the network). Returns "" or why not."""
    venv = _venv(folder)
    folder.mkdir(parents=True, exist_ok=True)
    python = venv / "bin" / "python"
    if python.exists() and _works(python) == "":
        return ""
    # Not the interpreter of .venv: a venv of a venv sees the wrong prefix in old releases.
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True)
    if made.returncode != 0:
        return f"python -m venv failed: {made.stderr.strip()[-200:]}"
    done = subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "2", "--timeout", "20",
                           *NEEDED], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        return f"pip cannot install {WHEEL}: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    wrong = _works(python)
    return f"import mooncake.store: {wrong}" if wrong else ""


def mooncake_python(folder: Path) -> Path | str:
    """The interpreter that has the wheel; a text says why there is none."""
    python = _venv(folder) / "bin" / "python"
    if not python.exists():
        return f"{WHEEL} is not installed in {_venv(folder)}"
    wrong = _works(python)
    return f"import mooncake.store: {wrong}" if wrong else python


def mooncake_master(python: Path) -> Path:
    """The wheel's daemon; pip does not keep its executable bit."""
    done = subprocess.run([str(python), "-E", "-c", "import mooncake, os; print(os.path.dirname(mooncake.__file__))"], capture_output=True, text=True,
                          check=True)
    binary = Path(done.stdout.strip()) / "mooncake_master"
    if not os.access(binary, os.X_OK):
        binary.chmod(binary.stat().st_mode | 0o111)
    return binary
