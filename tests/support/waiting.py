"""Conditions with deadlines."""

import os
import time

# A busy machine stretches time; a limit that a user was promised is judged with this factor.
TIME_FACTOR = float(os.environ.get("MCS_TIME_FACTOR", "1.5"))


def wait_until(condition, what: str, timeout: float = 30):
    """Polls until condition() is true and gives what it returned; AssertionError naming `what` after the timeout."""
    end = time.monotonic() + timeout
    pause = 0.001
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < end, f"not within {timeout:g} s: {what}"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def holds_for(condition, what: str, seconds: float) -> None:
    """Polls for so long that condition() is true all the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition(), what
        time.sleep(0.02)


class Stopwatch:
    """with Stopwatch() as watch: …; watch.seconds"""

    def __enter__(self):
        self._began = time.monotonic()
        self.seconds = 0.0
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self._began
