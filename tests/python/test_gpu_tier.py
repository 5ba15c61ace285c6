"""Segments in GPU memory between processes: on the fake driver (tests/fake_cuda), or with MCS_TEST_CUDA=real on the machine's (make test-gpu)."""

import os
import pathlib
import threading

import pytest
from python_support import BUILD_DIR, Master, wait_until

HERE = pathlib.Path(__file__).resolve().parent
REAL_CUDA = os.environ.get("MCS_TEST_CUDA") == "real"
TIER = 64 << 20

START = f"""
import random
sys.path.insert(0, {str(HERE)!r})
import atexit
from cuda_driver import Cuda, nothing_is_left
atexit.unregister(nothing_is_left)  # the store was imported before: it is closed after this would run
cuda = Cuda().start()
cuda.use(0)
def far(store):
    config = ReplicateConfig()
    config.preferred_segments = [store.get_hostname() + "/cuda:0"]
    return config
def filled(size, seed):
    data = random.Random(seed).randbytes(size)
    ptr = cuda.alloc(size)
    cuda.write(ptr, data)
    return ptr, data
"""


@pytest.fixture(autouse=True)
def driver(real):
    fake = BUILD_DIR / "tests" / "fake_cuda" / "libcuda.so.1"
    if not REAL_CUDA and not fake.exists():
        pytest.skip("tests/fake_cuda is not built")


@pytest.fixture
def master(tmp_path):
    """One for each test: nothing of another's is in the way."""
    master = Master(tmp_path, "--default_kv_lease_ttl=500")
    yield master
    assert master.stop() == 0


@pytest.fixture
def worker(new_worker):
    """Makes processes whose driver has begun."""

    def make(env=None, cuda=True):
        made = new_worker({"MCS_BUILD_DIR": str(BUILD_DIR), **(env or {})})
        if cuda:
            made(START)
        return made

    return make


def holder_of(worker, master, host=0, env=None):
    """A process with a segment on cuda:0; the segment's name."""
    holder = worker(env)
    assert holder(f"connect({master.address!r}, {host})") == 0
    mounted = holder(f"store.allocate_and_mount_segment({TIER}, location='cuda:0')")
    assert mounted["ret"] == 0 and mounted["allocated_size"] == TIER, holder.log()
    holder(f"ids = {mounted['segment_ids']!r}")
    return holder, holder("store.get_hostname()") + "/cuda:0"


def done(worker, task):
    return worker(f"'SUCCESS' in str(store.query_task({task[0]!r})[0].status)")


SIZES = [1, 4096, 65536, (1 << 20) + 1, 5 << 20]
WAYS = {"virtual memory": {}, "legacy handles": {"FAKE_CUDA_NO_VMM": "1"}}


@pytest.mark.parametrize("way", WAYS)
def test_a_second_process_reads_and_writes_the_device(master, worker, way):
    if REAL_CUDA and WAYS[way]:
        pytest.skip("only the fake driver can be without virtual memory")
    holder, name = holder_of(worker, master, env=WAYS[way])
    other = worker(WAYS[way])
    assert other(f"connect({master.address!r}, 0)") == 0
    other(f"config = ReplicateConfig(); config.preferred_segments = [{name!r}]")
    for i, size in enumerate(SIZES):
        holder(f"ptr, data = filled({size}, {i})")
        assert holder(f"store.put_from('h{i}', ptr, {size}, far(store))") == 0
        assert other(f"store.get('h{i}') == random.Random({i}).randbytes({size})")
        other(f"ptr, data = filled({size}, {i + 100})")
        assert other(f"store.get_into('h{i}', ptr, {size})") == size
        assert other(f"cuda.read(ptr, {size}) == random.Random({i}).randbytes({size})")
        assert other(f"cuda.write(ptr, data) or store.put_from('o{i}', ptr, {size}, config)") == 0
        assert other(f"store.put('p{i}', data, config)") == 0
        for key in (f"o{i}", f"p{i}"):
            assert holder(f"store.get({key!r}) == random.Random({i + 100}).randbytes({size})")
        assert holder(f"store.get_into('o{i}', ptr, {size})") == size
        assert holder(f"cuda.read(ptr, {size}) == random.Random({i + 100}).randbytes({size})")
        other(f"view = store.get_buffer('h{i}')")
        assert other(f"bytes(view) == random.Random({i}).randbytes({size})")
        holder("cuda.free(ptr)")
        other("cuda.free(ptr)")
    other("del view")
    counters = other("store.counters()")
    for one in (other, holder):
        assert one("store.close()") == 0
        assert one("cuda.left()") == ""
    assert counters["bytes_fetched"] == 0 and counters["bytes_stored"] == 0, "straight, not by the owner"
    assert counters["bytes_device_read"] > 0 and counters["bytes_device_written"] > 0


def test_who_cannot_map_the_device_is_served_by_the_owner(master, worker):
    holder, name = holder_of(worker, master, 64 << 20)
    without = worker(cuda=False)
    far_away = worker({"MC_STORE_MEMCPY": "0"})
    for one in (without, far_away):
        assert one(f"connect({master.address!r}, 0)") == 0
        one("import random")
    for i, size in enumerate(SIZES):
        holder(f"ptr, data = filled({size}, {i})")
        assert holder(f"store.put_from('k{i}', ptr, {size}, far(store))") == 0
        holder("cuda.free(ptr)")
        for one in (without, far_away):
            assert one(f"store.get('k{i}') == random.Random({i}).randbytes({size})")
            assert one(f"bytes(store.get_buffer('k{i}')) == random.Random({i}).randbytes({size})")
    keys = [f"k{i}" for i in range(len(SIZES))]
    assert without(f"[len(v) for v in store.get_batch({keys!r})]") == SIZES
    assert without("store.counters()['bytes_fetched']") > 0
    # What they put there lies in host memory.
    without(f"config = ReplicateConfig(); config.preferred_segments = [{name!r}]")
    assert without("store.put('mine', b'x' * 100000, config)") == 0
    assert holder("store.get('mine') == b'x' * 100000")
    assert holder("store.counters()['bytes_own_read']") > 0


@pytest.mark.parametrize("ending", ["kill -9", "close", "unmount", "exit"])
def test_an_owner_that_goes_takes_its_tier_along_and_harms_no_reader(master, worker, ending):
    holder, name = holder_of(worker, master)
    reader = worker()
    assert reader(f"connect({master.address!r}, {32 << 20})") == 0
    holder(f"ptr, data = filled({1 << 20}, 1)")
    for i in range(8):
        assert holder(f"store.put_from('k{i}', ptr, {1 << 20}, far(store))") == 0
    reader(f"ptr, data = filled({1 << 20}, 2)")
    assert reader(f"store.get_into('k0', ptr, {1 << 20})") == 1 << 20
    reader(
        f"""
codes, torn = set(), 0
expected = random.Random(1).randbytes({1 << 20})
def loop():
    global torn
    while not stop.is_set():
        for i in range(8):
            got = store.get_into(f'k{{i}}', ptr, {1 << 20})
            codes.add(got)
            if got == {1 << 20}:
                cuda.use(0)
                torn += cuda.read(ptr, {1 << 20}) != expected
stop = threading.Event()
thread = threading.Thread(target=loop)
thread.start()
"""
    )
    wait_until(lambda: reader(f"{1 << 20} in codes"), "the reader reads")
    if ending == "kill -9":
        holder.kill()
    elif ending == "close":
        assert holder("store.close()") == 0
    elif ending == "unmount":
        assert holder("store.unmount_and_free_segment(ids)") == 0
    else:
        holder.process.stdin.close()
        assert holder.process.wait(30) == 0
    wait_until(lambda: reader("min(codes)") < 0, "the reader sees that it has gone")
    reader("stop.set(); thread.join()")
    assert reader("torn") == 0
    assert reader("store.get_into('k0', ptr, 1 << 20)") < 0
    # The reader's device and its own memory are as they were.
    assert reader("cuda.write(ptr, data) or store.put_from('own', ptr, len(data))") == 0
    assert reader("store.get('own') == data")
    assert reader("store.allocate_and_mount_segment(16 << 20, location='cuda:0')['ret']") == 0
    assert reader("store.put_from('tier', ptr, len(data), far(store))") == 0
    assert reader("store.get('tier') == data")
    assert reader("store.close()") == 0
    assert reader("cuda.left()") == ""


@pytest.fixture
def hasty_master(tmp_path):
    master = Master(tmp_path, "--default_kv_lease_ttl=50", "--eviction_wait_ms=1000")
    yield master
    assert master.stop() == 0


def test_values_are_replaced_and_evicted_while_they_are_read(hasty_master, worker):
    """A device segment alone that holds 64 of 100 values: puts make room, and every value that is read is one that was put, whole."""
    holder, name = holder_of(worker, hasty_master)
    reader = worker()
    assert reader(f"connect({hasty_master.address!r}, 0)") == 0
    size = 1 << 20
    reader(
        f"""
torn, reads, ptr = 0, 0, cuda.alloc({size})
def loop():
    global torn, reads
    cuda.use(0)
    number = 0
    while not stop.is_set():
        number += 1
        if store.get_into(f'k{{number % 100}}', ptr, {size}) == {size}:
            got = cuda.read(ptr, {size})
            reads += 1
            torn += got != got[:1] * {size}
        time.sleep(0.002)  # a round of reads takes longer than a lease, or nothing could be evicted
stop = threading.Event()
thread = threading.Thread(target=loop)
thread.start()
"""
    )
    holder(f"ptr = cuda.alloc({size})")
    codes = holder(
        f"""[(cuda.write(ptr, bytes([i % 251]) * {size}) or store.upsert_from(f'k{{i % 100}}', ptr, {size}, far(store))) for i in range(300)]"""
    )
    assert codes.count(0) > 250 and set(codes) <= {0, -200}, codes
    reader("stop.set(); thread.join()")
    assert reader("torn") == 0 and reader("reads") > 0
    holder("store.close()")


@pytest.mark.parametrize("journal", [True, False])
def test_a_master_that_is_started_again_finds_the_tier(tmp_path, worker, journal):
    flags = ["--default_kv_lease_ttl=500", *([f"--journal_dir={tmp_path / 'journal'}"] if journal else [])]
    first = Master(tmp_path, *flags)
    ports = (first.rpc_port, first.http_port, first.metrics_port)
    holder, name = holder_of(worker, first, 16 << 20)
    reader = worker()
    assert reader(f"connect({first.address!r}, 0)") == 0
    holder(f"ptr, data = filled({(1 << 20) + 7}, 3)")
    for i in range(5):
        assert holder(f"store.put_from('k{i}', ptr, len(data), far(store))") == 0
    assert holder("store.remove('k2', True)") == 0
    first.process.kill()
    first.process.wait()
    first.log.close()
    second = Master(tmp_path, *flags, ports=ports)
    try:
        if journal:
            wait_until(lambda: reader("store.get('k1')") == holder("data"), "the value is back")
            assert reader("store.is_exist('k2')") == 0
            assert [reader(f"store.get('k{i}') == random.Random(3).randbytes({(1 << 20) + 7})") for i in (0, 3, 4)] == [True] * 3
        holder("before = store.counters()['bytes_device_written']")

        def put_again():
            holder("store.remove('new', True)")
            put = holder("store.put('new', data, far(store))")  # from host memory: the device counts if it lies there
            return put == 0 and holder("store.counters()['bytes_device_written'] > before")

        wait_until(put_again, "values are put into the tier again")
        wait_until(lambda: reader("store.get('new')") == holder("data"), "values are read again")
    finally:
        assert second.stop() == 0


def test_a_value_moves_between_the_tiers(master, worker):
    holder, name = holder_of(worker, master, 64 << 20)
    holder(f"ptr, data = filled({3 << 20}, 5)")
    assert holder(f"store.put_from('k', ptr, {3 << 20})") == 0
    host = holder("store.get_hostname()")
    task = holder(f"store.create_move_task('k', {host!r}, {name!r})")
    assert task[1] == 0, task
    wait_until(lambda: done(holder, task), "the task is done")
    assert holder("store.get('k') == data")
    assert holder("store.counters()['bytes_device_written']") > 0
    task = holder(f"store.create_copy_task('k', [{host!r}])")
    assert task[1] == 0, task
    wait_until(lambda: done(holder, task), "the task is done")
    assert holder("len(store.get_replica_desc('k'))") == 2
    assert holder("store.unmount_and_free_segment(ids)") == 0
    assert holder("store.get('k') == data")


def test_a_segment_of_setup_and_what_is_refused(master, worker):
    holder = worker()
    config = {
        "local_hostname": "127.0.0.1",
        "metadata_server": "P2PHANDSHAKE",
        "global_segment_size": "16MB",
        "local_buffer_size": "16MB",
        "master_server_addr": master.address,
    }
    for bad in ("cuda:0", "cuda:0=", "cuda:0=0", "cuda:x=16MB", "=16MB", "cpu:0=16MB"):
        assert holder(f"store.setup({ {**config, 'device_segment': bad}!r})") == -600, bad
    assert holder(f"store.setup({ {**config, 'device_segment': 'cuda:9=16MB'}!r})") == -1012
    assert holder("store.get_hostname()") == "", "all or nothing"
    assert holder(f"store.setup({ {**config, 'device_segment': 'cuda:0=32MB'}!r})") == 0
    assert holder("store.put('k', b'a' * 1000, far(store))") == 0
    assert holder("store.get('k') == b'a' * 1000")
    assert holder("store.counters()['bytes_device_written']") == 1000
    assert holder("store.allocate_and_mount_segment(1 << 20, location='cuda:x')['ret']") == -600
    assert holder("store.allocate_and_mount_segment(1 << 20, location='cuda:9')['ret']") == -1012
    assert holder("store.mount_segment('/dev/null', 4096, location='cuda:0')['ret']") == -600
    none = worker(cuda=False)
    assert none(f"connect({master.address!r}, 0)") == 0
    assert none("store.allocate_and_mount_segment(1 << 20, location='cuda:0')['ret']") == -1012
    assert "CUDA" in none.log()
