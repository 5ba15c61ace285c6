"""Copies, moves and drains between real processes: under readers, with kill -9 of who executes and of who receives."""

import json

import pytest

from tests.support.processes import MIB
from tests.support.waiting import wait_until

PATHS = {"ucx": {"MC_STORE_MEMCPY": "0"}, "shared_memory": {"MC_STORE_MEMCPY": "1"}}
KEYS = 24


@pytest.fixture(params=PATHS)
def path(request):
    return PATHS[request.param]


# ---- run in the peers ----


def fill(store, segment, count, source):
    scope = {}
    exec(source, scope)
    from mooncake.store import ReplicateConfig
    config = ReplicateConfig()
    config.preferred_segment = segment
    return [store.put(f"k{i}", scope["value_of"](i), config) for i in range(count)]


def read_for(store, seconds, count, source):
    """Reads all keys round and round: (reads, misses, wrong)."""
    import time
    scope = {}
    exec(source, scope)
    expected = [scope["value_of"](i) for i in range(count)]
    end = time.monotonic() + seconds
    reads = misses = wrong = 0
    while time.monotonic() < end:
        for i in range(count):
            got = store.get(f"k{i}")
            reads += 1
            misses += got == b""
            wrong += got not in (b"", expected[i])
    return reads, misses, wrong


def move_round(store, segments, seconds, count):
    """Moves keys from wherever they are to the next segment: (successes, codes and messages of what failed)."""
    import time
    from mooncake.store import TaskStatus
    end = time.monotonic() + seconds
    moved, failed = 0, []
    while time.monotonic() < end:
        tasks = []
        for i in range(count):
            replicas = store.get_replica_desc(f"k{i}")
            source = replicas[0].segment_name
            target = segments[(segments.index(source) + 1) % len(segments)]
            task, code = store.create_move_task(f"k{i}", source, target)
            if code == 0:
                tasks.append(task)
            else:
                failed.append(code)
        for task in tasks:
            while True:
                response, code = store.query_task(task)
                if code != 0 or response.status in (TaskStatus.SUCCESS, TaskStatus.FAILED):
                    break
                time.sleep(0.001)
            if code == 0 and response.status == TaskStatus.SUCCESS:
                moved += 1
            else:
                failed.append(response.message if code == 0 else code)
    return moved, failed


def copy_all(store, target, count):
    return [store.create_copy_task(f"k{i}", [target]) for i in range(count)]


def move_all(store, source, target, count):
    return [store.create_move_task(f"k{i}", source, target) for i in range(count)]


def outcomes(store, tasks, seconds):
    """SUCCESS, FAILED or the last state of each within the time."""
    import time
    end = time.monotonic() + seconds
    states = {}
    while len(states) < len(tasks) and time.monotonic() < end:
        for task in tasks:
            response, code = store.query_task(task)
            if response is not None and response.status.name in ("SUCCESS", "FAILED"):
                states[task] = response.status.name
        time.sleep(0.01)
    return [states.get(task, "PENDING") for task in tasks]


def put_and_read_for(store, seconds, prefix):
    """New keys all the time, each read back: codes other than 0, wrong values."""
    import time
    end = time.monotonic() + seconds
    codes, wrong, n = [], 0, 0
    while time.monotonic() < end:
        key, value = f"{prefix}{n}", (f"{prefix}{n}" * 100).encode()
        code = store.put(key, value)
        codes += [code] if code != 0 else []
        wrong += code == 0 and store.get(key) != value
        n += 1
    return n, codes, wrong


def where(store, count):
    return [sorted(r.segment_name for r in store.get_replica_desc(f"k{i}")) for i in range(count)]


# ---- the tests ----

# Of the values, for all peers.
SOURCE = "def value_of(i):\n    return (bytes([i % 251]) * 997 + i.to_bytes(4, 'little')) * (20 + i % 60)\n"


def read_once(store, count, source):
    scope = {}
    exec(source, scope)
    return [i for i in range(count) if store.get(f"k{i}") != scope["value_of"](i)]


def test_replicas_move_under_readers_without_a_gap(path, master, start_peer):
    holders = [start_peer(f"holder{i}", env=path).setup(master) for i in range(3)]
    readers = [start_peer("mapping", env=PATHS["shared_memory"]).setup(master, segment=0),
               start_peer("fetching", env=PATHS["ucx"]).setup(master, segment=0)]
    mover = start_peer("mover", env=path).setup(master, segment=0)
    names = [holder.hostname() for holder in holders]
    assert mover.run(fill, names[0], KEYS, SOURCE) == [0] * KEYS
    for reader in readers:
        reader.start_run(read_for, 4, KEYS, SOURCE)
    moved, failed = mover.run(move_round, names, 3.5, KEYS)
    assert moved > KEYS and failed == []
    for reader in readers:
        reads, misses, wrong = reader.result(60)
        assert reads > KEYS and (misses, wrong) == (0, 0)
    assert mover.run(read_once, KEYS, SOURCE) == []
    assert mover.call("remove_all", True) == KEYS
    wait_until(lambda: master.allocated() == 0, "every extent has come back")


def test_killed_executor_loses_no_object_that_lies_elsewhere(path, start_master, start_peer):
    master = start_master("--client_ttl=3")
    dying = start_peer("dying", env=path).setup(master)
    safe = start_peer("safe", env=path).setup(master)
    target = start_peer("target", env=path).setup(master)
    user = start_peer("user", env=path).setup(master, segment=0)
    assert user.run(fill, dying.hostname(), KEYS, SOURCE) == [0] * KEYS
    made = user.run(copy_all, safe.hostname(), KEYS)
    assert user.run(outcomes, [task for task, code in made if code == 0], 30) == ["SUCCESS"] * KEYS
    gone, target_name = dying.hostname(), target.hostname()
    made = user.run(copy_all, target_name, KEYS)
    assert all(code == 0 for _, code in made)
    dying.kill()
    states = user.run(outcomes, [task for task, _ in made], 60)
    assert set(states) == {"SUCCESS"}, "the other owner has taken over"
    wait_until(lambda: gone not in master.segments(), "the dead one is dropped")
    assert user.run(read_once, KEYS, SOURCE) == []
    assert all(places == sorted([safe.hostname(), target_name]) for places in user.run(where, KEYS))
    assert user.call("remove_all", True) == KEYS
    wait_until(lambda: master.allocated() == 0, "every extent has come back")


def test_killed_target_leaves_the_source_as_it_was(path, start_master, start_peer):
    master = start_master("--client_ttl=3", "--max_retry_attempts=2")
    source = start_peer("source", env=path).setup(master)
    target = start_peer("target", env=path).setup(master)
    user = start_peer("user", env=path).setup(master, segment=0)
    names = source.hostname(), target.hostname()
    assert user.run(fill, names[0], KEYS, SOURCE) == [0] * KEYS
    target.freeze()
    made = user.run(move_all, names[0], names[1], KEYS)
    assert all(code == 0 for _, code in made)
    target.kill()
    states = user.run(outcomes, [task for task, _ in made], 60)
    assert "PENDING" not in states
    wait_until(lambda: names[1] not in master.segments(), "the dead one is dropped")
    lost = user.run(read_once, KEYS, SOURCE)
    assert lost == [i for i, state in enumerate(states) if state == "SUCCESS"], "only what had moved went with it"
    assert user.call("remove_all", True) == KEYS - len(lost)
    wait_until(lambda: master.allocated() == 0, "every extent has come back")


def test_a_node_is_drained_under_load_and_leaves_without_a_loss(path, master, start_peer):
    leaving = start_peer("leaving", env=path).setup(master)
    staying = [start_peer(f"staying{i}", env=path).setup(master) for i in range(2)]
    user = start_peer("user", env=path).setup(master, segment=0)
    reader = start_peer("reader", env=path).setup(master, segment=0)
    name = leaving.hostname()
    assert user.run(fill, name, KEYS, SOURCE) == [0] * KEYS
    user.start_run(put_and_read_for, 4, "load")
    reader.start_run(read_for, 4, KEYS, SOURCE)
    code, text = master.admin("/api/v1/drain_jobs", "POST", json.dumps({"segments": [name], "max_concurrency": 8}).encode())
    answer = json.loads(text)
    assert code == 200 and answer["success"] and answer["status"] == "CREATED"

    def segment():
        return json.loads(master.admin(f"/api/v1/segments/status?segment={name}")[1])["status_name"]

    def job():
        return json.loads(master.admin(f"/api/v1/drain_jobs/query?job_id={answer['job_id']}")[1])

    assert segment() in ("DRAINING", "DRAINED")
    wait_until(lambda: job()["status_name"] not in ("CREATED", "RUNNING"), "the job is over")
    done = job()
    assert done["status_name"] == "SUCCEEDED" and done["succeeded_units"] >= KEYS and done["active_units"] == 0
    assert done["segments"] == [name] and done["failed_units"] == 0 and done["migrated_bytes"] > 0
    assert segment() == "DRAINED"
    leaving.close()
    puts, codes, wrong = user.result(60)
    assert puts > 0 and (codes, wrong) == ([], 0)
    reads, misses, wrong = reader.result(60)
    assert reads > 0 and (misses, wrong) == (0, 0), "also while and after the owner left"
    assert user.run(read_once, KEYS, SOURCE) == []
    assert all(name not in places for places in user.run(where, KEYS))
    assert user.call("remove_all", True) + master.metrics()["master_evicted_key_count"] >= KEYS + puts
    wait_until(lambda: master.allocated() == 0, "every extent has come back")
    for holder in staying:
        holder.close()


def test_two_jobs_for_one_segment_and_unknown_names_are_refused(master, start_peer):
    holder = start_peer("holder").setup(master)
    user = start_peer("user").setup(master, segment=0)
    name = holder.hostname()
    assert user.run(fill, name, 4, SOURCE) == [0] * 4

    def start(**body):
        code, text = master.admin("/api/v1/drain_jobs", "POST", json.dumps(body).encode())
        return code, json.loads(text)

    assert start(segments=["nobody:1"])[0] == 404
    assert start(segments=[])[0] == 400
    assert start(segments=[name], max_concurrency=0)[0] == 400
    code, job = start(segments=[name])  # there is no other segment: it cannot end
    assert code == 200
    assert start(segments=[name])[0] == 409
    code, text = master.admin(f"/api/v1/drain_jobs/cancel?job_id={job['job_id']}", "POST")
    assert code == 200 and json.loads(text)["status"] == "CANCELED"
    assert json.loads(master.admin(f"/api/v1/segments/status?segment={name}")[1])["status_name"] == "OK"
    assert user.run(read_once, 4, SOURCE) == []
    assert user.call("put", "new", b"value") == 0


def test_a_segment_of_16_mib_goes_after_its_grace(master, start_peer):
    holder = start_peer("holder").setup(master, segment=0)
    user = start_peer("user").setup(master, segment=0)
    mounted = holder.call("allocate_and_mount_segment", 16 * MIB)
    assert mounted["ret"] == 0
    assert user.run(fill, holder.hostname(), 4, SOURCE) == [0] * 4
    assert holder.call("unmount_and_free_segment", mounted["segment_ids"], 2) == 0
    name = holder.hostname()
    assert json.loads(master.admin(f"/api/v1/segments/status?segment={name}")[1])["status_name"] == "GRACEFULLY_UNMOUNTING"
    assert user.run(read_once, 4, SOURCE) == []
    assert user.call("put", "new", b"value") == -200
    wait_until(lambda: user.call("is_exist", "k0") == 0, "the period is over")
    wait_until(lambda: holder.counters()["owner_segments"] == 0, "the memory has gone, without another call")
