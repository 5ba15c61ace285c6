"""A cable is pulled out while clients put and read: no call hangs, no byte is wrong, and everything goes on when it is back."""

import time

import pytest

from tests.support.processes import MIB
from tests.support.waiting import TIME_FACTOR, wait_until

pytestmark = pytest.mark.netns


@pytest.fixture
def cluster(networks, start_master, start_peer, scratch):
    """(networks, master, holder, reader): three machines as far as the network can tell."""
    m, h, r = networks(3)
    env = {"MC_STORE_MEMCPY": "0"}
    master = start_master("--ipc_dir=none", "--client_ttl=3", host="0.0.0.0", prefix=m.prefix)
    holder = start_peer("holder", env=env | {"MC_STORE_IPC_DIR": str(scratch.folder("h"))}, prefix=h.prefix)
    reader = start_peer("reader", env=env | {"MC_STORE_IPC_DIR": str(scratch.folder("r"))}, prefix=r.prefix)
    holder.setup(f"{m.address_for(h)}:{master.rpc_port}", segment=96 * MIB, host=h.address_for(r))
    reader.setup(f"{m.address_for(r)}:{master.rpc_port}", segment=0, host=r.address_for(h))
    return {"master": m, "holder": h, "reader": r}, holder, reader


def work(store, stop):
    """Upserts and reads its own keys until the file `stop` is there: wrong values, the longest call, and calls that succeeded."""
    import os
    import time
    written, wrong, longest, good, n = {}, [], 0.0, 0, 0
    while not os.path.exists(stop):
        n += 1
        key, value, began = f"k{n % 20}", b"%08d" % n * 20_000, time.monotonic()
        code = store.upsert(key, value)
        written[key] = [value] if code == 0 else written.get(key, []) + [value]  # one of these
        got = store.get(key)
        if got and got not in written[key]:
            wrong.append((key, got[:8]))
        good += code == 0 and got == value
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.002)
    return wrong, longest, good


@pytest.mark.soak
@pytest.mark.parametrize("ends", ["holder reader", "master reader", "master holder"])
def test_a_cut_cable_hangs_nobody_and_heals(ends, cluster, tmp_path):
    networks, holder, reader = cluster
    one, other = (networks[name] for name in ends.split())
    stop = tmp_path / "stop"
    reader.start_run(work, str(stop))
    wait_until(lambda: holder.call("is_exist", "k2") == 1, "the reader has read the first that it wrote", 20)
    one.cut(other)
    time.sleep(4)  # longer than a client may be silent
    one.mend(other)
    wait_until(lambda: holder.call("health_check") == 0, "the holder is in touch with the master", 40)
    wait_until(lambda: holder.call("upsert", "probe", b"x" * 100_000) == 0 and holder.call("get", "probe") == b"x" * 100_000, "the holder goes on", 40)
    stop.touch()
    wrong, longest, good = reader.result(90)
    assert wrong == [] and good > 0
    assert longest < 20 * TIME_FACTOR
    wait_until(lambda: reader.call("upsert", "last", b"y" * 100_000) == 0 and reader.call("get", "last") == b"y" * 100_000, "the reader goes on", 40)
