"""Drain jobs whose segment, owner, targets or operator do something else meanwhile."""

import json
import re

import pytest

from tests.support.processes import MIB
from tests.support.waiting import wait_until

SIZE, COUNT = 100_000, 200
OVER = ("SUCCEEDED", "FAILED", "CANCELED")


# ---- run in the peers ----


def fill(store, segment, count, size, replicas=1, pinned=False):
    from mooncake.store import ReplicateConfig

    config = ReplicateConfig()
    config.preferred_segment, config.replica_num, config.with_hard_pin = segment, replicas, pinned
    return [store.put(f"k{i}", bytes([i % 256]) * size, config) for i in range(count)]


def look(store, count, size):
    """The values that are not what was put."""
    return [i for i in range(count) if store.get(f"k{i}") != bytes([i % 256]) * size]


def read_until(store, count, size, flag):
    """Reads all keys round and round until the file is there: (rounds, reads that were wrong)."""
    import os

    rounds, wrong = 0, 0
    while not os.path.exists(flag):
        rounds += 1
        for i in range(count):
            wrong += store.get(f"k{i}") != bytes([i % 256]) * size
    return rounds, wrong


def upsert_until(store, count, size, flag):
    """Replaces the values by themselves, round and round: codes other than 0, and than -200: what is replaced takes room until its leases end."""
    import os

    codes = []
    while not os.path.exists(flag):
        for i in range(count):
            codes += [code] if (code := store.upsert(f"k{i}", bytes([i % 256]) * size)) not in (0, -200) else []
    return codes


def places(store, count):
    return [sorted(r.segment_name for r in store.get_replica_desc(f"k{i}")) for i in range(count)]


# ---- the operator ----


class Operator:
    def __init__(self, master):
        self.master = master

    def begin(self, *segments, to=(), most=1):
        body = {"segments": segments, "target_segments": to, "max_concurrency": most}
        code, text = self.master.admin("/api/v1/drain_jobs", "POST", json.dumps(body).encode())
        assert code == 200, text
        return json.loads(text)["job_id"]

    def job(self, job_id):
        return json.loads(self.master.admin(f"/api/v1/drain_jobs/query?job_id={job_id}")[1])

    def cancel(self, job_id):
        code, text = self.master.admin(f"/api/v1/drain_jobs/cancel?job_id={job_id}", "POST")
        return code, json.loads(text)

    def end(self, job_id):
        wait_until(lambda: self.job(job_id)["status_name"] in OVER, "the job is over", 60)
        return self.job(job_id)

    def state(self, segment):
        code, text = self.master.admin(f"/api/v1/segments/status?segment={segment}")
        return json.loads(text)["status_name"] if code == 200 else code


@pytest.fixture
def operator(master):
    return Operator(master)


def begun(operator, master, start_peer, user):
    """A drain that has moved something and, as its executor stands still, moves no more: the segment's owner and name, the target's owner, the job."""
    for n in range(5):
        leaving, other = (start_peer(f"{who}{n}").setup(master) for who in ("leaving", "other"))
        name = leaving.hostname()
        assert user.run(fill, name, COUNT, SIZE) == [0] * COUNT
        job = operator.begin(name)
        wait_until(lambda: operator.job(job)["succeeded_units"] > 0, "something has moved")
        leaving.freeze()
        if operator.job(job)["status_name"] not in OVER:
            return leaving, name, other, job
        leaving.thaw()  # it was faster; once more
        assert user.call("remove_all", True) == COUNT
        leaving.close()
        other.close()
    raise AssertionError("every job was over before its executor stood still")


# ---- the tests ----


def test_a_job_is_canceled_in_the_middle_under_readers(operator, master, start_peer, scratch):
    user, reader = (start_peer(name).setup(master, segment=0) for name in ("user", "reader"))
    leaving, name, other, job = begun(operator, master, start_peer, user)
    flag = scratch.path / "enough"
    reader.start_run(read_until, COUNT, SIZE, str(flag))
    code, answer = operator.cancel(job)
    assert code == 200 and answer["status"] == "CANCELED"
    assert operator.cancel(job)[1]["error_message"] == "UNAVAILABLE_IN_CURRENT_STATUS"
    leaving.thaw()
    wait_until(lambda: operator.job(job)["active_units"] == 0, "what was under way is over")
    done = operator.job(job)
    assert done["status_name"] == "CANCELED" and operator.state(name) == "OK"
    moved = [i for i, names in enumerate(user.run(places, COUNT)) if names == [other.hostname()]]
    assert len(moved) == done["succeeded_units"]
    assert user.run(fill, name, COUNT + 1, SIZE)[-1] == 0
    assert user.run(places, COUNT + 1)[-1] == [name], "it takes objects again"
    job = operator.begin(name, most=16)  # again, and to the end
    assert operator.end(job)["status_name"] == "SUCCEEDED"
    leaving.close()
    flag.touch()
    rounds, wrong = reader.result()
    assert rounds > 0 and wrong == 0
    assert user.run(look, COUNT + 1, SIZE) == []


def test_writers_that_replace_values_are_drained_from(operator, master, start_peer, scratch):
    leaving, other = (start_peer(name).setup(master) for name in ("leaving", "other"))
    user, writer, reader = (start_peer(name).setup(master, segment=0) for name in ("user", "writer", "reader"))
    assert user.run(fill, leaving.hostname(), 40, SIZE) == [0] * 40
    flag = scratch.path / "enough"
    writer.start_run(upsert_until, 40, SIZE, str(flag))
    reader.start_run(read_until, 40, SIZE, str(flag))
    assert operator.end(operator.begin(leaving.hostname(), most=4))["status_name"] == "SUCCEEDED"
    leaving.close()
    flag.touch()
    assert writer.result() == [] and reader.result()[1] == 0
    assert user.run(places, 40) == [[other.hostname()]] * 40 and user.run(look, 40, SIZE) == []


def test_an_owner_that_dies_costs_what_had_not_moved_and_ends_the_job(start_master, start_peer):
    master = start_master("--client_ttl=1")
    operator = Operator(master)
    user = start_peer("user").setup(master, segment=0)
    leaving, name, other, job = begun(operator, master, start_peer, user)
    leaving.kill()
    done = operator.end(job)
    assert done["status_name"] == "FAILED" and done["message"] == "a segment went away before it was empty"
    assert operator.state(name) == 404
    lost = user.run(look, COUNT, SIZE)
    assert len(lost) >= COUNT - done["succeeded_units"] - 1 and len(lost) < COUNT, "one may have moved without anybody being told"
    assert all(names in ([], [other.hostname()]) for names in user.run(places, COUNT))
    assert user.run(fill, "", COUNT, SIZE) == [0] * COUNT and user.run(look, COUNT, SIZE) == []


def test_a_target_that_dies_is_left_alone(start_master, start_peer):
    master = start_master("--client_ttl=1")
    operator = Operator(master)
    leaving, first, second = (start_peer(name).setup(master) for name in ("leaving", "first", "second"))
    user = start_peer("user").setup(master, segment=0)
    assert user.run(fill, leaving.hostname(), COUNT, SIZE) == [0] * COUNT
    first.freeze()  # its part of a move does not come
    job = operator.begin(leaving.hostname(), most=8)
    first.kill()
    assert operator.end(job)["status_name"] == "SUCCEEDED"
    lost = user.run(look, COUNT, SIZE)
    assert lost == [], "nothing of it had moved to the one that died"
    assert all(names == [second.hostname()] for names in user.run(places, COUNT))


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "evictable"])
def test_targets_that_are_too_small_take_what_they_can(operator, master, start_peer, pinned):
    """What may be evicted makes room, the oldest first, as in any full cache; what may not stays where it is."""
    leaving = start_peer("leaving").setup(master)
    small = start_peer("small").setup(master, segment=16 * MIB)
    user = start_peer("user").setup(master, segment=0)
    assert user.run(fill, leaving.hostname(), 30, MIB, 1, pinned) == [0] * 30
    done = operator.end(operator.begin(leaving.hostname(), most=4))
    gone = set(user.run(look, 30, MIB))
    if pinned:
        assert done["status_name"] == "FAILED" and "no room" in done["message"]
        assert 10 <= done["succeeded_units"] <= 15 and done["failed_units"] == 30 - done["succeeded_units"]
        assert operator.state(leaving.hostname()) == "OK" and gone == set()
        assert sum(names == [small.hostname()] for names in user.run(places, 30)) == done["succeeded_units"]
    else:
        assert done["status_name"] == "SUCCEEDED" and operator.state(leaving.hostname()) == "DRAINED"
        assert len(gone) == master.metrics()["master_evicted_key_count"] < 30
        assert all(names == [small.hostname()] for i, names in enumerate(user.run(places, 30)) if i not in gone)


def test_a_second_replica_goes_to_a_third_segment_or_is_given_up(operator, master, start_peer):
    leaving, other = (start_peer(name).setup(master) for name in ("leaving", "other"))
    user = start_peer("user").setup(master, segment=0)
    assert user.run(fill, leaving.hostname(), 5, SIZE, 2) == [0] * 5
    assert user.run(places, 5) == [sorted((leaving.hostname(), other.hostname()))] * 5
    done = operator.end(operator.begin(leaving.hostname()))
    assert done["status_name"] == "SUCCEEDED" and done["succeeded_units"] == 5 and done["migrated_bytes"] == 0
    assert user.run(places, 5) == [[other.hostname()]] * 5 and user.run(look, 5, SIZE) == []
    third = start_peer("third").setup(master)
    assert user.call("remove_all", True) == 5
    assert user.run(fill, other.hostname(), 5, SIZE, 2) == [0] * 5
    assert user.run(places, 5) == [sorted((other.hostname(), third.hostname()))] * 5, "a drained segment takes nothing"
    fourth = start_peer("fourth").setup(master)
    done = operator.end(operator.begin(other.hostname()))
    assert done["status_name"] == "SUCCEEDED" and done["migrated_bytes"] == 5 * SIZE
    assert user.run(places, 5) == [sorted((third.hostname(), fourth.hostname()))] * 5 and user.run(look, 5, SIZE) == []


def test_empty_segments_are_drained_at_once_and_several_together(operator, master, start_peer):
    holders = [start_peer(f"holder{i}").setup(master) for i in range(3)]
    names = [holder.hostname() for holder in holders]
    user = start_peer("user").setup(master, segment=0)
    for name in names[:2]:
        assert user.run(fill, name, 1, SIZE) == [0]
    assert operator.end(operator.begin(*names[:2]))["status_name"] == "SUCCEEDED"
    assert [operator.state(name) for name in names] == ["DRAINED", "DRAINED", "OK"]
    assert user.run(places, 1) == [[names[2]]]
    assert operator.end(operator.begin(names[0]))["status_name"] == "SUCCEEDED", "a drained one again"
    assert re.fullmatch(r"\d+-\d+", operator.begin(names[1]))
