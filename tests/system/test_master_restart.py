"""kill -9 of the master at random instants under load, and another one on the same journal (rule 12; docs/journal.md): no acknowledged put is
lost whose owner lives, no removed object comes back, no byte is wrong.

MCS_RESTARTS is how many times in a row (default 4; `make soak` takes 200).
"""

import os
import random
import subprocess
import time

import pytest

from tests.support.processes import MIB, find_build_dir
from tests.support.waiting import wait_until

RESTARTS = int(os.environ.get("MCS_RESTARTS", "4"))


def load(store, name, seed, threads, stop_file):
    """Until the file is there: puts, upserts and removals by threads of their own keys. Returns {key: what it may be now}; None = no object."""
    import os
    import random
    import threading
    import zlib

    from tests.support.contents import pattern

    results = [None] * threads

    def work(number):
        rng = random.Random(seed * 1000 + number)
        may_be = {}
        serial = acknowledged = 0
        while not os.path.exists(stop_file):
            serial += 1
            key = f"{name}-{number}-{rng.randrange(60)}"
            before = may_be.get(key, {None})
            if rng.random() < 0.3:
                code = store.remove(key, rng.random() < 0.3)
                if code in (0, -704):
                    may_be[key] = {None}
                elif code not in (-703, -706):
                    may_be[key] = before | {None}
                continue
            size = rng.choice((1, 500, 4096, 70000))
            value = pattern(zlib.crc32(f"{key}#{serial}".encode()), size)
            if rng.random() < 0.5:
                code = store.upsert(key, value)
                may_be[key] = {(serial, size)} if code == 0 else before | {(serial, size)}
            elif before == {None}:
                code = store.put(key, value)
                may_be[key] = {(serial, size)} if code == 0 else {None, (serial, size)}
            else:
                continue
            acknowledged += code == 0
        results[number] = (may_be, acknowledged)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    merged = {}
    for may_be, _ in results:
        merged.update(may_be)
    return merged, sum(acknowledged for _, acknowledged in results)


def verify(store, expected):
    """What is not as it may be, as text."""
    import zlib

    from tests.support.contents import pattern

    wrong = []
    for key, may_be in expected.items():
        found = store.get(key)
        fine = (None in may_be and found == b"") or any(
            state is not None and found == pattern(zlib.crc32(f"{key}#{state[0]}".encode()), state[1]) for state in may_be)
        if not fine:
            wrong.append(f"{key}: {len(found)} bytes, may be {sorted(map(str, may_be))}")
    return wrong


@pytest.fixture
def start_peers(start_peer):
    """start_peers(n, master): peers with a segment each."""
    return lambda count, master: [start_peer(f"peer{i}").setup(master, segment=256 * MIB) for i in range(count)]


@pytest.fixture
def journaled(start_master, scratch):
    return start_master(f"--journal_dir={scratch.folder('journal')}")


@pytest.mark.soak
def test_kill_9_at_random_instants_loses_nothing(journaled, scratch, start_peers):
    rng = random.Random(int(os.environ.get("MCS_SEED", "1")))
    peers = start_peers(2, journaled)
    stop_file = scratch.path / "stop"
    for number, peer in enumerate(peers):
        peer.start_run(load, f"p{number}", number, 3, str(stop_file))
    for _ in range(RESTARTS):
        time.sleep(rng.uniform(0.05, 2.5))  # an instant that no condition describes
        journaled.kill()
        journaled.restart()
    time.sleep(1.5)
    stop_file.touch()
    outcomes = [peer.result(timeout=120) for peer in peers]
    assert sum(acknowledged for _, acknowledged in outcomes) > 100
    expected = {key: may_be for states, _ in outcomes for key, may_be in states.items()}
    journaled.kill()
    journaled.restart()
    wrong = []
    for _ in range(10):
        time.sleep(1.2)  # an owner that came back is hidden for a second
        wrong = peers[0].run(verify, expected)
        if not wrong:
            break
    assert not wrong, "\n".join(wrong[:20])
    folder = scratch.folder("journal")
    check = subprocess.run([str(find_build_dir() / "master" / "mooncake_master"), f"--check-journal={folder}"], capture_output=True, text=True,
                           timeout=60)
    assert check.returncode == 0 and "verdict: good" in check.stdout, check.stdout


def test_a_stopped_master_has_its_index_again(journaled, start_peers):
    owner, reader = start_peers(2, journaled)
    values = {f"k{i}": bytes([i]) * (1000 + i) for i in range(50)}
    for key, value in values.items():
        assert owner.call("put", key, value) == 0
    assert owner.call("remove", "k0") == 0
    assert journaled.stop() == 0
    journaled.restart()
    wait_until(lambda: reader.call("batch_is_exist", [key for key in values if key != "k0"]) == [1] * 49, "the owners are back", 20)
    assert reader.call("get", "k0") == b""
    assert all(reader.call("get", key) == value for key, value in values.items() if key != "k0")


def test_an_owner_that_died_meanwhile_is_not_waited_for(start_master, scratch, start_peers):
    master = start_master(f"--journal_dir={scratch.folder('journal')}", "--client_ttl=2")
    owner, other = start_peers(2, master)
    for i in range(20):
        assert owner.call("put", f"k{i}", b"x" * 1000) == 0
    master.kill()
    owner.kill()
    master.restart()
    wait_until(lambda: len(master.segments()) == 1, "its segment goes with its time to live", 20)
    assert other.call("put", "new", b"y") == 0


def test_without_a_journal_a_restart_empties_the_cache(start_master, start_peers):
    master = start_master("--journal=off")
    (owner,) = start_peers(1, master)
    assert owner.call("put", "k", b"x") == 0
    master.kill()
    master.restart()
    wait_until(lambda: owner.call("put", "other", b"y") == 0, "the owner has mounted anew", 20)
    assert owner.call("is_exist", "k") == 0


@pytest.mark.parametrize(("flags", "word"), [
    (["--journal=on"], "needs journal_dir"),
    (["--journal=maybe"], "must be on, off or auto"),
    (["--journal_dir=/proc/no/such"], "is not usable"),
])
def test_a_journal_that_cannot_be_is_a_clear_error(flags, word):
    binary = find_build_dir() / "master" / "mooncake_master"
    done = subprocess.run([str(binary), "--rpc_address=127.0.0.1", "--metrics_host=127.0.0.1", "--rpc_port=1", *flags], capture_output=True,
                          text=True, timeout=30)
    assert done.returncode == 1
    assert word in done.stderr


def test_a_full_journal_stops_the_master_or_goes_on_without(start_master, scratch, start_peers):
    stopping = start_master(f"--journal_dir={scratch.folder('small')}", "--journal_max_mb=17")
    (owner,) = start_peers(1, stopping)
    keys = [f"{'k' * 8000}{i}" for i in range(2500)]  # a megabyte a stream is soon full
    value = b"x"
    for start in range(0, len(keys), 250):
        if not stopping.alive() or any(owner.call("put", key, value) != 0 for key in keys[start:start + 250]):
            break
    assert stopping.process.wait(20) == 2
    assert "journal" in stopping.log()
