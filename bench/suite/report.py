"""Tables and plots from results, for the terminal and for docs/performance.md (between its markers)."""

import math
import re
from pathlib import Path

from .results import Results

TITLES = {"bulk": "Large objects", "small": "Objects of 4 KiB", "first use": "First use, misses, views", "master": "The master alone",
          "parts": "Single parts", "policies": "Eviction's choice: block hit rate", "replay": "A trace through the store"}
# What a section's figures are compared with: (heading, system, and its op where it has one only).
COMPARED = {"bulk": [("of memcpy", "memcpy"), ("of the raw stream", "raw stream"), ("x mooncake, tcp", "mooncake, tcp")],
            "small": [("x raw round trip", "raw round trip"), ("x mooncake, tcp", "mooncake, tcp")],
            "first use": [("x mooncake, own", "mooncake, own segment")]}


def number(value: float | None) -> str:
    """Three figures that count."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 4)}f}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """First column left, the others right, padded to be read as text, too."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    rule = ["-" * widths[0]] + ["-" * max(w - 1, 1) + ":" for w in widths[1:]]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))) + " |"

    return "\n".join(line(cells) for cells in [header, rule, *rows])


def goals_table(goals: list[dict]) -> str:
    rows = []
    for goal in goals:
        sign = ">=" if goal["at_least"] else "<="
        verdict = {True: "met", False: "missed", None: "not measured"}[goal["met"]]
        rows.append([goal["name"], f"{sign} {goal['limit']:g} {goal['unit']}".strip(), f"{number(goal['found'])} {goal['unit']}".strip(), verdict])
    return markdown(["goal (worst case)", "limit", "found", ""], rows)


def _compare(results: Results, row: dict, system: str) -> str:
    """Speeds as shares, times as multiples; a row's own figure has none."""
    if row["system"] == system:
        return "1"
    op = row["op"]
    if results.find(row["section"], row["case"], op, system) is None:
        op = "get" if op == "get, first time" else op
    ratio = results.ratio(row["section"], row["case"], row["op"], row["system"], system, below_op=op)
    if math.isnan(ratio):
        return "-"
    return f"{ratio:.2f}"


def section_table(results: Results, section: str) -> str:
    rows = results.rows(section)
    if section == "policies":
        return _policy_table(rows)
    compared = [(title, system) for title, system in COMPARED.get(section, []) if any(r["system"] == system for r in rows)]
    tails = any("p99" in row for row in rows)
    cpu = any("cpu_per_gb" in row for row in rows)
    header = ["case", "operation", "system", "median", "unit", "lowest", "highest", *(["p99"] if tails else []), *(["p99.9"] if tails else []),
              *(title for title, _ in compared), *(["CPU s/GB"] if cpu else [])]
    table = []
    order = {key: i for i, key in enumerate(dict.fromkeys((r["case"], r["op"]) for r in rows))}
    for row in sorted(rows, key=lambda r: order[r["case"], r["op"]]):
        cells = [row["case"], row["op"], row["system"], "not valid" if "bad" in row else number(row["value"]), row["unit"], number(row["low"]),
                 number(row["high"])]
        if tails:
            cells += [number(row.get("p99")), number(row.get("p999"))]
        cells += [_compare(results, row, system) for _, system in compared]
        if cpu:
            cells.append(number(row.get("cpu_per_gb")))
        table.append(cells)
    text = markdown(header, table)
    for row in rows:
        if "bad" in row:
            text += f"\n\nNot valid: {row['case']}, {row['op']}, {row['system']}: {row['bad']}."
    return text


def _policy_table(rows: list[dict]) -> str:
    shares = list(dict.fromkeys(row["case"] for row in rows))
    found = {(row["system"], row["case"]): f"{row['value']:.2f}" for row in rows}
    names = list(dict.fromkeys(row["system"] for row in rows))
    return markdown(["policy", *(f"{s} of the blocks" for s in shares)], [[name, *(found.get((name, s), "-") for s in shares)] for name in names])


def missing_text(results: Results, section: str) -> str:
    return "\n".join(f"- {note['system']}: not measured: {note['why']}" for note in results.notes if note["section"] == section)


def environment_text(results: Results) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in results.environment.items())


def blocks(results: Results, goals: list[dict]) -> dict[str, str]:
    """What goes between the markers, by name."""
    found = {"environment": environment_text(results), "goals": goals_table(goals)}
    for section in results.sections():
        parts = [section_table(results, section)] if results.rows(section) else []
        found[section] = "\n\n".join(part for part in [*parts, missing_text(results, section)] if part)
    return found


def everything(results: Results, goals: list[dict]) -> str:
    text = [environment_text(results)]
    for section in results.sections():
        text.append(f"## {TITLES[section]}\n\n{blocks(results, goals)[section]}")
    text.append(f"## Goals\n\n{goals_table(goals)}")
    return "\n\n".join(text)


def fill_page(page: str, found: dict[str, str]) -> str:
    """Replaces what is between `<!-- bench:NAME -->` and `<!-- bench:end -->`. ValueError: a marker without an end, or none at all."""
    if page.count("<!-- bench:") != 2 * page.count("<!-- bench:end -->") or "<!-- bench:" not in page:
        raise ValueError("each <!-- bench:NAME --> needs its <!-- bench:end -->")

    def block(match: re.Match) -> str:
        text = found.get(match[1])
        return match[0] if text is None else f"<!-- bench:{match[1]} -->\n{text}\n<!-- bench:end -->"

    return re.sub(r"<!-- bench:((?!end )[a-z ]+?) -->\n.*?<!-- bench:end -->", block, page, flags=re.S)


# ---- plots ----

def plot(results: Results, folder: Path) -> list[Path]:
    """PNG and SVG; ImportError without matplotlib."""
    import matplotlib
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "mcs"  # the same figures make the same file
    import matplotlib.pyplot as plt
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []

    def save(figure, name: str) -> None:
        figure.tight_layout()
        for kind in ("png", "svg"):
            path = folder / f"{name}.{kind}"
            figure.savefig(path, dpi=110, metadata={"Date": None} if kind == "svg" else {"Software": None})
            made.append(path)
        plt.close(figure)

    for name, draw in (("bulk", _plot_bulk), ("cpu", _plot_cpu), ("small", _plot_small), ("open-loop", _plot_open_loop), ("policies", _plot_policies)):
        figure = draw(results, plt)
        if figure is not None:
            save(figure, name)
    return made


def _bars(plt, results: Results, section: str, field: str, label: str, wanted) -> object:
    rows = [row for row in results.rows(section) if wanted(row) and "bad" not in row and field in row]
    if not rows:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(13, 5.5), sharey=True)
    systems = list(dict.fromkeys(row["system"] for row in rows))
    cases = list(dict.fromkeys(row["case"] for row in rows))
    colours = dict(zip(systems, plt.get_cmap("tab20").colors, strict=False))
    for axis, op in zip(axes, ("get", "put"), strict=True):
        width = 0.85 / len(systems)
        for i, system in enumerate(systems):
            values = {row["case"]: row[field] for row in rows if row["system"] == system and row["op"] == op}
            at = [c + (i - len(systems) / 2) * width for c, case in enumerate(cases) if case in values]
            axis.bar(at, [values[c] for c in cases if c in values], width, label=system, color=colours[system], align="edge")
        axis.set_xticks(range(len(cases)), cases)
        axis.set_title(op)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel(label)
    axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _plot_bulk(results: Results, plt):
    return _bars(plt, results, "bulk", "value", "GB/s (median)", lambda r: r["op"] in ("get", "put"))


def _plot_cpu(results: Results, plt):
    return _bars(plt, results, "bulk", "cpu_per_gb", "processor seconds a GB, all processes", lambda r: r["op"] in ("get", "put"))


def _plot_small(results: Results, plt):
    return _bars(plt, results, "small", "value", "4 KiB objects, thousands a second (32 a call)", lambda r: r["case"].startswith("32 a call"))


def _plot_open_loop(results: Results, plt):
    rows = [r for r in results.rows("small") if r["case"].startswith("open loop") and "bad" not in r]
    if not rows:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(13, 5.5), sharey=True)
    systems = list(dict.fromkeys(row["system"] for row in rows))
    for axis, op in zip(axes, ("get", "put"), strict=True):
        for colour, system in zip(plt.get_cmap("tab10").colors, systems, strict=False):
            mine = [r for r in rows if r["system"] == system and r["op"] == op]
            axis.plot([r["rate"] for r in mine], [r["value"] for r in mine], "o-", color=colour, label=f"{system}, p50")
            axis.plot([r["rate"] for r in mine], [r["p99"] for r in mine], "x--", color=colour, label=f"{system}, p99")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(f"4 KiB {op}")
        axis.set_xlabel("offered, thousands a second (50, 80, 95 % of each one's peak)")
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("latency from the time it was due, us")
    axes[1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _plot_policies(results: Results, plt):
    rows = results.rows("policies")
    if not rows:
        return None
    figure, axis = plt.subplots(figsize=(7, 5))
    for name in dict.fromkeys(row["system"] for row in rows):
        mine = [row for row in rows if row["system"] == name]
        axis.plot([int(row["case"].split()[0]) for row in mine], [row["value"] for row in mine], "o-" if name.startswith("master") else "x--", label=name)
    axis.set_xlabel("capacity, % of the different blocks")
    axis.set_ylabel("blocks found, %")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
