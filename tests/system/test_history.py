"""The history test: processes put, upsert, read, remove and pin the same few keys while they are killed, stopped and restarted, and their segments evict;
then one order of events must explain what all of them saw (tests/history/checker.py says what that proves)."""

import os
import pathlib

import pytest

from tests.history.__main__ import KINDS
from tests.history.driver import PATHS, Plan, run

SECONDS = float(os.environ.get("MCS_HISTORY_SECONDS", "7.5"))
SEED = int(os.environ.get("MCS_HISTORY_SEED", 777))  # make soak draws them


@pytest.mark.soak
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_order_of_events_explains_what_all_saw(kind, path, tmp_path):
    plan = Plan(SEED, SECONDS, path, **KINDS[kind])
    print(f"again: MCS_HISTORY_SEED={SEED} pytest tests/system/test_history.py -k '{kind} and {path}'")
    keep = pathlib.Path(os.environ.get("MCS_HISTORY_KEEP", tmp_path))
    outcome = run(plan, keep / f"{kind}-{path}")
    print(outcome)
    assert not outcome.problems, f"journals in {keep}\n{outcome}"
    assert outcome.operations > 100 * SECONDS, "hardly anything happened"
    if plan.small:
        assert outcome.metrics["master_evicted_key_count"] > 0, "nothing was evicted"
    if plan.faults:
        assert outcome.faults, "no fault happened"
