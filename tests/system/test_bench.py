"""bench/run.py at tiny sizes, and the parts of the suite that decide what a figure is worth: statistics, guard, goals, tables, baseline."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import find_build_dir

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import instructions  # noqa: E402
from suite import goals, guard, procs, report, sections, stats, systems  # noqa: E402
from suite.results import Results  # noqa: E402


# ---- statistics ----

def test_quantiles_are_nearest_ranks():
    assert stats.quantiles(list(range(1, 101))) == {"p50": 50, "p99": 99, "p99.9": 100}
    assert stats.quantiles([7.0]) == {"p50": 7.0, "p99": 7.0, "p99.9": 7.0}
    assert all(math.isnan(v) for v in stats.quantiles([]).values())


def test_ratio_is_the_median_of_the_rounds_that_both_have():
    assert stats.ratio({0: 10, 1: 20, 2: 300}, {0: 10, 1: 10, 2: 10}) == 2
    assert stats.ratio({0: 10, 5: 1000}, {0: 20, 1: 1}) == 0.5
    assert math.isnan(stats.ratio({0: 1}, {1: 1}))
    assert math.isnan(stats.ratio({0: 1}, {0: 0}))


def test_median_and_spread_leave_out_what_is_not_a_number():
    assert stats.median([1, math.nan, 3]) == 2
    assert stats.spread([2, math.nan, 1]) == (1, 2)
    assert math.isnan(stats.median([]))


def test_arrivals_come_at_the_rate_and_never_after_the_end():
    times = stats.arrivals(1000, 5, seed=1)
    assert times == sorted(times) and 0 < times[0] and times[-1] < 5
    assert 4500 < len(times) < 5500
    assert times == stats.arrivals(1000, 5, seed=1) != stats.arrivals(1000, 5, seed=2)
    with pytest.raises(ValueError):
        stats.arrivals(0, 1, seed=1)


# ---- guard ----

NET_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    1000      10    0    0    0     0          0         0     1000      10    0    0    0     0       0          0
  eth0:     300       3    0    0    0     0          0         0       70       1    0    0    0     0       0          0
"""


def test_guard_counts_the_loopback_once_and_others_both_ways():
    assert guard.parse(NET_DEV) == {"lo": 1000, "eth0": 370}


@pytest.mark.parametrize("path, claimed, counted, fine", [
    ("tcp", 1000, 1100, True), ("tcp", 1000, 985, True), ("tcp", 1000, 900, False), ("tcp", 1000, 0, False), ("same host", 1000, 0, True)])
def test_guard_convicts_a_tcp_row_that_moved_too_little(path, claimed, counted, fine):
    assert (guard.verdict(path, claimed, counted) == "") == fine


def test_processor_time_is_of_the_whole_process():
    before = procs.cpu_seconds(os.getpid())
    while procs.cpu_seconds(os.getpid()) - before < 0.02:
        pass


# ---- results, goals, tables ----

def results_of(values: dict[str, list[float]], section: str = "bulk", case: str = "1 MiB", op: str = "get") -> Results:
    results = Results()
    for system, series in values.items():
        for turn, value in enumerate(series):
            results.add(section, case, op, system, turn, value, "GB/s", cpu_per_gb=1 / value)
    return results


def test_rows_are_medians_and_survive_the_file(tmp_path):
    results = results_of({"memcpy": [10, 12, 11], "store, same host": [9, 6, 30]})
    results.environment = {"processor": "x"}
    results.missing("bulk", "redis", "no redis-server")
    results.write(tmp_path / "r.jsonl", goals.judge(results))
    again = Results.read(tmp_path / "r.jsonl")
    assert again.rows() == results.rows() and again.notes == results.notes and again.environment == results.environment
    row = again.find("bulk", "1 MiB", "get", "store, same host")
    assert (row["value"], row["low"], row["high"], row["rounds"]) == (9, 6, 30, 3)


def test_a_file_that_is_no_result_is_named_with_its_line(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"kind": "environment"}\nnonsense\n')
    with pytest.raises(ValueError, match="r.jsonl:2"):
        Results.read(tmp_path / "r.jsonl")


def test_a_bad_sample_takes_its_row_and_its_goals_down():
    results = results_of({"memcpy": [10, 10], "store, same host": [9.5, 9.5]})
    assert {g["name"]: g for g in goals.judge(results)}["same host, 1-16 MiB get_into / memcpy"]["met"] is True
    results.add("bulk", "1 MiB", "get", "store, same host", 2, 99.0, "GB/s", bad="7 wrong bytes")
    row = results.find("bulk", "1 MiB", "get", "store, same host")
    assert math.isnan(row["value"]) and row["bad"] == "7 wrong bytes"
    assert "not valid" in report.section_table(results, "bulk")


def test_goals_take_the_worst_case_and_know_what_was_not_measured():
    results = results_of({"memcpy": [10], "store, same host": [9.5]})
    for system, value in (("memcpy", 10.0), ("store, same host", 5.0)):
        results.add("bulk", "16 MiB", "get", system, 0, value, "GB/s")
    judged = {g["name"]: g for g in goals.judge(results)}
    assert judged["same host, 1-16 MiB get_into / memcpy"]["found"] == 0.5
    assert judged["same host, 1-16 MiB get_into / memcpy"]["met"] is False
    assert judged["same host, 1-16 MiB put_from / memcpy"]["met"] is None


@pytest.mark.parametrize("text, names", [
    ("  --eviction_policy (order of eviction: lru) type: string default: lru\n", ["lru"]),
    ("  --eviction_policy (adaptive (LRU that\n protects) or lru) type: string\n --x (or else) type:", ["adaptive", "lru"]), ("nothing", ["lru"])])
def test_the_masters_policies_are_read_off_its_help(text, names):
    assert sections.policy_names(text) == names


@pytest.mark.parametrize("better, score", [([1, 2, 5, 10, 20], 0), ([2, 3, 5, 10, 20], 2), ([9, 9, 9, 10, 19], -1)])
def test_the_policy_goal_wants_never_below_and_twice_above(better, score):
    results = Results()
    for name, values in (("master:lru", [1, 2, 5, 10, 20]), ("master:best", better)):
        for share, value in zip(sections.SHARES, values, strict=True):
            results.add("policies", f"{share} %", "hit rate", name, 0, float(value), "%")
    found = {g["name"]: g["found"] for g in goals.judge(results)}["eviction policy: capacities 5 % above LRU, never below"]
    assert found == max(score, 0)  # the LRU itself is never below itself


def test_the_page_is_filled_between_its_markers_only():
    page = "# Title\n<!-- bench:bulk -->\nold\n<!-- bench:end -->\nwords\n<!-- bench:first use -->\nkept\n<!-- bench:end -->\n"
    filled = report.fill_page(page, {"bulk": "| new |"})
    assert filled == page.replace("old", "| new |")
    assert report.fill_page(filled, {"bulk": "| new |"}) == filled
    with pytest.raises(ValueError):
        report.fill_page("<!-- bench:bulk -->\nno end\n", {})


def test_the_documentation_has_a_place_for_every_section():
    page = (ROOT / "docs" / "performance.md").read_text()
    for name in ("environment", "goals", *sections.SECTIONS):
        assert f"<!-- bench:{name} -->" in page, name


# ---- instructions ----

def test_a_regression_of_more_than_a_tenth_is_found():
    lines, worse = instructions.compare({"a": 100.0, "b": 100.0, "gone": 5.0}, {"a": 109.0, "b": 111.0, "new": 1.0})
    assert worse == ["b"]
    text = "\n".join(lines)
    assert "no baseline" in text and "gone" in text and "MORE" in text
    assert instructions.total("x\nsummary: 12345\n") == 12345
    with pytest.raises(ValueError):
        instructions.total("nothing")


def test_every_steady_operation_has_a_baseline():
    binary = find_build_dir() / "bench" / "micro" / "ops_bench"
    listed = subprocess.run([str(binary), "list"], capture_output=True, text=True, check=True).stdout.splitlines()
    steady = {line.split()[0] for line in listed if line.endswith(" instructions")}
    assert steady == set(json.loads((ROOT / "bench" / "baseline.json").read_text())["instructions"])


# ---- the whole, small ----

TINY = sections.Size(rounds=1, work=4 << 20, segment=64 << 20, latency=40, small=64, pings=20, loop_seconds=0.02, keys=(1000,), memory_keys=4000, lookups=2000,
                     policy_requests=20, setup_segment=64 << 20, misses=500, ops=128, trace_requests=20,
                     bulk=(("1 MiB", 1 << 20, 1), ("256 x 64 KiB", 64 << 10, 256)), peers=False)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """measure(*sections): Results of those sections at tiny sizes."""
    place = systems.Place(find_build_dir(), tmp_path)
    results = Results()

    def measure(*names: str) -> Results:
        for name in names:
            sections.SECTIONS[name](sections.Run(place, TINY, results))
        return results

    yield measure
    place.close()


def fine(results: Results, section: str) -> list[dict]:
    rows = results.rows(section)
    assert rows and not results.bad(), (results.bad(), results.notes)
    assert all(row["value"] >= 0 for row in rows), rows
    return rows


def test_large_objects_are_measured_on_every_path(tiny):
    results = tiny("bulk")
    rows = fine(results, "bulk")
    systems_seen = {row["system"] for row in rows}
    assert {"memcpy", "raw stream", "store, own segment", "store, same host", "store, tcp"} <= systems_seen, results.notes
    assert all(row["value"] > 0 and row["cpu_per_gb"] > 0 for row in rows if row["unit"] == "GB/s")
    assert 1 <= results.find("bulk", "after all", "sockets", "store, tcp")["value"] <= 4


def test_small_objects_are_measured_closed_and_open(tiny):
    rows = fine(tiny("small"), "small")
    cases = {row["case"] for row in rows}
    assert {"one", "32 a call, 4 threads", "open loop, 95 % of peak"} <= cases
    assert all(row["p99"] >= row["value"] for row in rows if row["case"] == "one")


def test_first_use_and_views(tiny):
    results = tiny("first use")
    fine(results, "first use")
    assert results.find("first use", "4 MiB", "get_buffer", "store, same host")["copied"] == 0


def test_the_master_is_loaded_and_its_memory_weighed(tiny):
    results = tiny("master")
    rows = fine(results, "master")
    assert {"unix", "tcp", "full", "full again"} <= {row["op"] for row in rows}


def test_the_masters_eviction_is_lru_by_the_yardstick(tiny):
    rows = {(row["system"], row["case"]): row["value"] for row in fine(tiny("policies"), "policies")}
    # Objects of one batch are of one age: close to the true order, not the same.
    assert abs(rows["master:lru", "20 %"] - rows["lru", "20 %"]) < 0.5


def test_a_peer_that_is_missing_is_a_row_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    place = systems.Place(find_build_dir(), tmp_path)
    run = sections.Run(place, TINY, Results())
    started = []
    run.start("bulk", "redis", lambda: systems.redis(place, 1 << 20, 1 << 20), started)
    run.start("bulk", "mooncake", lambda: systems.mooncake(place, "mooncake", "own", 1 << 20, 1 << 20), started)
    place.close()
    assert started == []
    assert [note["system"] for note in run.results.notes] == ["redis", "mooncake"]
    assert "redis-server" in report.missing_text(run.results, "bulk")


def test_the_command_writes_lines_tables_and_reports_from_them(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(find_build_dir() / "python")}
    command = [sys.executable, str(ROOT / "bench" / "run.py"), "--build", str(find_build_dir()), "--out", str(tmp_path)]
    done = subprocess.run([*command, "--quick", "--no-peers", "--rounds", "1", "--only", "policies"], capture_output=True, text=True, timeout=240,
                          env=environment)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} >= {"environment", "sample", "row", "goal"}
    page = tmp_path / "page.md"
    page.write_text("<!-- bench:policies -->\n<!-- bench:end -->\n")
    again = subprocess.run([*command, "--from", str(tmp_path / "results.jsonl"), "--page", str(page)], capture_output=True, text=True, timeout=120,
                           env=environment)
    assert again.returncode == 0, again.stderr
    assert "master:lru" in page.read_text() and "## Goals" in again.stdout
