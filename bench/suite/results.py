"""Samples of a run, their medians over the rounds, and the JSON lines they are kept in.

A sample is one figure of one round: section, case, op, system, round, value, unit, and more numbers (cpu_per_gb, p50 …). A row is the median of its
samples. A reason ("missing") makes a row without figures; a complaint ("bad") of the guard or of the verification makes a row that does not count.
"""

import json
import math
from pathlib import Path

from . import stats

KEY = ("section", "case", "op", "system")


class Results:
    def __init__(self):
        self.environment: dict = {}
        self.samples: list[dict] = []
        self.notes: list[dict] = []  # rows without figures

    def add(self, section: str, case: str, op: str, system: str, turn: int, value: float, unit: str, bad: str = "", **more: float) -> None:
        self.samples.append({"kind": "sample", "section": section, "case": case, "op": op, "system": system, "round": turn, "value": value,
                             "unit": unit} | ({"bad": bad} if bad else {}) | {k: v for k, v in more.items() if v is not None})

    def missing(self, section: str, system: str, why: str) -> None:
        self.notes.append({"kind": "missing", "section": section, "system": system, "why": why})

    def rows(self, section: str | None = None) -> list[dict]:
        """In the order in which they were first measured."""
        groups: dict[tuple, list[dict]] = {}
        for sample in self.samples:
            if section in (None, sample["section"]):
                groups.setdefault(tuple(sample[k] for k in KEY), []).append(sample)
        return [_row(samples) for samples in groups.values()]

    def find(self, section: str, case: str, op: str, system: str) -> dict | None:
        wanted = (section, case, op, system)
        return next((row for row in self.rows(section) if tuple(row[k] for k in KEY) == wanted), None)

    def by_round(self, section: str, case: str, op: str, system: str, field: str = "value") -> dict[int, float]:
        wanted = (section, case, op, system)
        return {s["round"]: s[field] for s in self.samples if tuple(s[k] for k in KEY) == wanted and field in s and "bad" not in s}

    def ratio(self, section: str, case: str, op: str, above: str, below: str, field: str = "value", below_op: str | None = None) -> float:
        return stats.ratio(self.by_round(section, case, op, above, field), self.by_round(section, case, below_op or op, below, field))

    def sections(self) -> list[str]:
        return list(dict.fromkeys(s["section"] for s in [*self.samples, *self.notes]))

    def bad(self) -> list[dict]:
        return [s for s in self.samples if "bad" in s]

    # -- files --

    def write(self, path: Path, goals: list[dict] = ()) -> None:
        lines = [{"kind": "environment"} | self.environment, *self.samples, *self.notes,
                 *({"kind": "row"} | row for row in self.rows()), *goals]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    @classmethod
    def read(cls, path: Path) -> "Results":
        results = cls()
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                record = json.loads(line)
                kind = record["kind"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}:{number}: not a result") from None
            if kind == "environment":
                results.environment = {k: v for k, v in record.items() if k != "kind"}
            elif kind == "sample":
                results.samples.append(record)
            elif kind == "missing":
                results.notes.append(record)
        return results


def _row(samples: list[dict]) -> dict:
    first = samples[0]
    row = {k: first[k] for k in (*KEY, "unit")} | {"rounds": len(samples)}
    numbers = dict.fromkeys(k for s in samples for k, v in s.items() if isinstance(v, (int, float)) and k != "round")
    for name in numbers:
        row[name] = stats.median(s[name] for s in samples if name in s)
    low, high = stats.spread([s["value"] for s in samples])
    row["low"], row["high"] = low, high
    bad = [s["bad"] for s in samples if "bad" in s]
    if bad:
        row["bad"] = bad[0]
        row["value"] = math.nan
    return row
