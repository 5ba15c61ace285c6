"""kill -9 of the master at random instants under load, and another one on the same journal (rule 12; docs/journal.md): no acknowledged put is
lost whose owner lives, no removed object comes back, no byte is wrong.

MCS_RESTARTS is how many times in a row (default 4; `make soak` takes 200).
"""

import contextlib
import json
import mmap
import os
import pathlib
import random
import struct
import subprocess
import time

import pytest

from tests.support.processes import MIB, find_build_dir
from tests.support.waiting import wait_until

RESTARTS = int(os.environ.get("MCS_RESTARTS", "4"))


def load(store, name, seed, threads, stop_file):
    """Until the file is there: puts, upserts, removals (also by expression) and reads by threads of their own keys.

    Kept keys are hard-pinned, so that eviction never takes them: what was acknowledged stays. Fillers are large and are not pinned: they may go at any
    time, but what is read of one is what was put last, and what was removed stays away. Returns {key: what it may be now; None = no object}, how many
    changes were acknowledged, and what was read that could not be.
    """
    import os
    import random
    import threading
    import zlib

    from mooncake.store import ReplicateConfig

    from tests.support.contents import pattern

    pinned = ReplicateConfig()
    pinned.with_hard_pin = True
    results = [None] * threads

    def value_of(key, state):
        return pattern(zlib.crc32(f"{key}#{state[0]}".encode()), state[1])

    class Worker:
        def __init__(self, number):
            self.prefix = f"{name}-{number}"
            self.rng = random.Random(seed * 1000 + number)
            self.may_be = {}
            self.serial = self.acknowledged = 0
            self.wrong = []

        def states(self, key):
            return self.may_be.get(key, {None})

        def write(self, key, sizes, config):
            self.serial += 1
            state = (self.serial, self.rng.choice(sizes))
            before = self.states(key)
            keeps = {None} if config is None else set()  # what is not pinned may be evicted
            if config is None and before == {None} or self.rng.random() < 0.5:
                call = store.put if before == {None} else store.upsert
                code = call(key, value_of(key, state), config) if config else call(key, value_of(key, state))
                self.may_be[key] = ({state} if code == 0 else before | {state}) | keeps
                self.acknowledged += code == 0

        def remove(self, key):
            code = store.remove(key, self.rng.random() < 0.3)
            if code in (0, -704):
                self.may_be[key] = {None}
                self.acknowledged += code == 0
            elif code not in (-703, -706):
                self.may_be[key] = self.states(key) | {None}

        def remove_some(self):
            digit = self.rng.randrange(10)
            count = store.remove_by_regex(f"^{self.prefix}-k[0-9]*{digit}$", True)
            self.acknowledged += count > 0
            for key in [key for key in self.may_be if key.startswith(f"{self.prefix}-k") and key.endswith(str(digit))]:
                # By force, so an answer says that all are gone; of those that could not be read just then nothing is said.
                self.may_be[key] = self.states(key) | {None}

        def read(self, key):
            found = store.get(key)  # b"": gone, or its owner is not back yet
            if found and not any(state and found == value_of(key, state) for state in self.states(key)):
                self.wrong.append(f"{key}: {len(found)} bytes that cannot be, may be {sorted(map(str, self.states(key)))}")

        def step(self):
            dice = self.rng.random()
            kept = f"{self.prefix}-k{self.rng.randrange(60)}"
            filler = f"{self.prefix}-f{self.rng.randrange(40)}"
            if dice < 0.15:
                self.remove(kept)
            elif dice < 0.2:
                self.remove(filler)
            elif dice < 0.21:
                self.remove_some()
            elif dice < 0.35:
                self.read(self.rng.choice((kept, filler)))
            elif dice < 0.65:
                self.write(filler, (200000, 1000000, 2000000), None)
            else:
                self.write(kept, (1, 500, 4096, 70000), pinned)

    def work(number):
        worker = Worker(number)
        while not os.path.exists(stop_file):
            worker.step()
        results[number] = worker

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    merged = {}
    for worker in results:
        merged.update(worker.may_be)
    return merged, sum(worker.acknowledged for worker in results), [text for worker in results for text in worker.wrong]


def verify(store, expected):
    """What is not as it may be, as text; how many objects there are."""
    import zlib

    from tests.support.contents import pattern

    wrong = []
    there = 0
    for key, may_be in expected.items():
        found = store.get(key)
        there += found != b""
        fine = (None in may_be and found == b"") or any(
            state is not None and found == pattern(zlib.crc32(f"{key}#{state[0]}".encode()), state[1]) for state in may_be)
        if not fine:
            wrong.append(f"{key}: {len(found)} bytes, may be {sorted(map(str, may_be))}")
    return wrong, there


@pytest.fixture
def start_peers(start_peer):
    """start_peers(n, master): peers with a segment each."""
    return lambda count, master: [start_peer(f"peer{i}").setup(master, segment=256 * MIB) for i in range(count)]


@pytest.fixture
def journaled(start_master, scratch):
    return start_master(f"--journal_dir={scratch.folder('journal')}")


def evicted(master) -> int:
    try:
        return int(master.metrics().get("master_evicted_key_count", 0))
    except OSError:
        return 0


@pytest.mark.soak
def test_kill_9_at_random_instants_loses_nothing(journaled, scratch, start_peer):
    rng = random.Random(int(os.environ.get("MCS_SEED", "1")))
    peers = [start_peer(f"peer{i}").setup(journaled, segment=96 * MIB) for i in range(2)]
    stop_file = scratch.path / "stop"
    evictions = 0
    for number, peer in enumerate(peers):
        peer.start_run(load, f"p{number}", number, 3, str(stop_file))
    for _ in range(RESTARTS):
        time.sleep(rng.uniform(0.05, 2.5))  # an instant that no condition describes
        evictions += evicted(journaled)
        journaled.kill()
        journaled.restart()
    wait_until(lambda: evictions + evicted(journaled) > 0, "something is evicted", 60)
    stop_file.touch()
    outcomes = [peer.result(timeout=120) for peer in peers]
    assert sum(acknowledged for _, acknowledged, _ in outcomes) > 100
    wrong = [text for _, _, texts in outcomes for text in texts]
    assert not wrong, "\n".join(wrong[:20])
    expected = {key: may_be for states, _, _ in outcomes for key, may_be in states.items()}
    journaled.kill()
    journaled.restart()
    there = 0
    for _ in range(10):
        time.sleep(1.2)  # an owner that came back is hidden for a second
        wrong, there = peers[0].run(verify, expected)
        if not wrong:
            break
    assert not wrong, "\n".join(wrong[:20])
    print(f"{RESTARTS} kills: {sum(acknowledged for _, acknowledged, _ in outcomes)} changes acknowledged, {evictions} objects evicted, "
          f"{there} of {len(expected)} keys there, none lost, none back, none wrong")
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


WRITTEN = b"MCXT" + struct.pack("<HH4s", 1, 0, b"WRIT")


@contextlib.contextmanager
def memory_of(peer, size):
    """The segment of that size in the peer's process."""
    for link in pathlib.Path(f"/proc/{peer.pid}/fd").iterdir():
        if os.readlink(link).startswith("/memfd:") and os.stat(link).st_size == size:
            with open(link, "r+b") as file, mmap.mmap(file.fileno(), size) as memory:
                yield memory
            return
    raise AssertionError("no such segment")


def header_of(memory, payload_len) -> int:
    """Where the extent with a payload of that length begins."""
    at = memory.find(WRITTEN)
    while at >= 0:
        if struct.unpack_from("<Q", memory, at + 24)[0] == payload_len:
            return at
        at = memory.find(WRITTEN, at + 1)
    raise AssertionError("no such extent")


def test_what_is_not_as_the_journal_says_is_dropped_at_once(journaled, start_peer):
    size = 256 * MIB
    owner = start_peer("owner").setup(journaled, segment=size)
    reader = start_peer("reader").setup(journaled, segment=0)
    values = {f"k{i}": os.urandom(1000 + i) for i in range(10)}
    for key, value in values.items():
        assert owner.call("put", key, value) == 0
    journaled.kill()
    with memory_of(owner, size) as memory:
        memory[header_of(memory, 1003) + 16] ^= 1  # the generation
        payload = header_of(memory, 1005) + 64
        memory[payload + 500] ^= 1
    journaled.restart()
    checked = ("mcs_recovered_extents_asked_total", "mcs_recovered_extents_dropped_total")
    wait_until(lambda: [journaled.metrics()[name] for name in checked] == [10, 1], "the owner has been asked for all and has said so", 30)
    assert journaled.metrics()["master_key_count"] == 9
    whole = [key for key in values if key not in ("k3", "k5")]
    wait_until(lambda: reader.call("batch_is_exist", whole) == [1] * 8, "the owner is steady", 20)
    assert reader.call("is_exist", "k3") == 0
    assert reader.call("get", "k3") == b""
    assert reader.call("get", "k5") == b""  # its checksum is found to be wrong by who reads it
    assert all(reader.call("get", key) == values[key] for key in whole)
    assert owner.call("put", "k3", b"again") == 0
    assert reader.call("get", "k3") == b"again"


def test_a_drain_job_outlives_the_master(journaled, start_peer):
    leaving = start_peer("leaving").setup(journaled)
    for i in range(300):
        assert leaving.call("put", f"k{i}", bytes([i % 251]) * 20000) == 0
    staying = start_peer("staying").setup(journaled)
    body = json.dumps({"segments": [leaving.hostname()], "max_concurrency": 1}).encode()
    status, text = journaled.admin("/api/v1/drain_jobs", "POST", body)
    assert status == 200
    job = json.loads(text)["job_id"]
    journaled.kill()
    journaled.restart()

    def state():
        status, text = journaled.admin(f"/api/v1/drain_jobs/query?job_id={job}")
        assert status == 200
        return json.loads(text)["status_name"]

    wait_until(lambda: state() == "SUCCEEDED", "the segment is drained", 60)
    journaled.kill()
    journaled.restart()
    assert state() == "SUCCEEDED"
    wait_until(lambda: staying.call("batch_is_exist", [f"k{i}" for i in range(300)]) == [1] * 300, "the owner is steady", 20)
    leaving.close()
    assert all(staying.call("get", f"k{i}") == bytes([i % 251]) * 20000 for i in range(300))


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


def fill(master, owner):
    """Puts until the journal is full: keys that share nothing, a megabyte a stream is soon full."""
    keys = [f"{i:04}{'k' * 8000}" for i in range(4000)]
    for start in range(0, len(keys), 250):
        if not master.alive() or any(owner.call("put", key, b"x") != 0 for key in keys[start:start + 250]):
            break


def test_a_full_journal_stops_the_master(start_master, scratch, start_peers):
    master = start_master(f"--journal_dir={scratch.folder('small')}", "--journal_max_mb=18")
    (owner,) = start_peers(1, master)
    fill(master, owner)
    assert master.process.wait(20) == 2
    assert "journal_max_mb or a quota is reached: stopping" in master.log()


def test_a_master_goes_on_without_a_full_journal(start_master, scratch, start_peers):
    master = start_master(f"--journal_dir={scratch.folder('small')}", "--journal_max_mb=18", "--journal_on_error=continue")
    (owner,) = start_peers(1, master)
    assert owner.call("put", "first", b"x") == 0
    fill(master, owner)
    assert master.alive() and "going on without it" in master.log()
    metrics = master.metrics()
    assert metrics["mcs_journal_on"] == 0 and metrics["mcs_journal_errors_total"] == 1
    assert owner.call("put", "last", b"y") == 0 and owner.call("get", "first") == b"x"
    master.kill()
    master.restart()
    assert "it misses records: its master went on without it" in master.log()
    wait_until(lambda: owner.call("put", "other", b"y") == 0, "the owner has mounted anew", 20)
    assert owner.call("is_exist", "first") == 0


@pytest.fixture
def full_disk(scratch):
    """A file system of 18 MiB."""
    folder = scratch.folder("disk")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=18m", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no file system of its own: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_a_clear_error(full_disk, scratch, start_master, start_peers):
    master = start_master(f"--journal_dir={full_disk}")
    (owner,) = start_peers(1, master)
    assert owner.call("put", "first", b"x") == 0
    fill(master, owner)
    assert master.process.wait(20) == 2
    assert f"{full_disk} cannot take more, No space left on device: stopping" in master.log()
    # With room again all that was acknowledged is there.
    subprocess.run(["mount", "-o", "remount,size=80m", str(full_disk)], check=True)
    master.restart()
    wait_until(lambda: owner.call("is_exist", "first") == 1, "the owner is back", 20)


def test_a_disk_without_any_room_is_met_at_the_start(full_disk):
    (full_disk / "other").write_bytes(bytes(10 * MIB))
    binary = find_build_dir() / "master" / "mooncake_master"
    done = subprocess.run([str(binary), "--rpc_address=127.0.0.1", "--metrics_host=127.0.0.1", "--rpc_port=1", f"--journal_dir={full_disk}"],
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "not made: No space left on device" in done.stderr and f"the journal in {full_disk} was not taken over" in done.stderr
