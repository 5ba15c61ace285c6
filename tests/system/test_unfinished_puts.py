"""A writer that is stopped or killed in the middle of its put: what others see of the key, and how and when they get it and the space."""

import pytest

from tests.support.processes import MIB
from tests.support.waiting import TIME_FACTOR, Stopwatch, wait_until

TRANSPORT = {"MC_STORE_MEMCPY": "0", "MC_TRANSFER_TIMEOUT": "20"}


def put_large(store, key, size):
    import ctypes
    source = ctypes.create_string_buffer(size)
    ctypes.memset(source, 0xEE, size)
    return store.put_from(key, ctypes.addressof(source), size)


def see(store, key):
    """What each call says of the key."""
    import ctypes
    memory = ctypes.create_string_buffer(64)
    at = ctypes.addressof(memory)
    return {"is_exist": store.is_exist(key), "batch_is_exist": store.batch_is_exist([key]), "get": store.get(key), "get_batch": store.get_batch([key]),
            "get_size": store.get_size(key), "get_buffer": store.get_buffer(key), "get_into": store.get_into(key, at, 64),
            "batch_get_into": store.batch_get_into([key], [at], [64]), "desc": store.get_replica_desc(key), "remove": store.remove(key),
            "force": store.remove(key, force=True), "batch_remove": store.batch_remove([key]), "regex": store.remove_by_regex(f"^{key}$"),
            "all": store.remove_all(), "clear": store.batch_replica_clear([key]), "session": store.batch_get_session_start([key])}


UNFINISHED = {"is_exist": 0, "batch_is_exist": [0], "get": b"", "get_batch": [b""], "get_size": -703, "get_buffer": None, "get_into": -703, "batch_get_into": [-703],
              "desc": [], "remove": -703, "force": -703, "batch_remove": [-703], "regex": 0, "all": 0, "clear": [], "session": [-703]}


class Caught:
    """A put that stands in the middle: its writer is stopped (and its holder was, for a moment)."""

    def __init__(self, start_master, start_peer, *flags):
        self.master = start_master("--client_ttl=30", *flags)
        self.holder = start_peer("holder", env=TRANSPORT).setup(self.master, segment=96 * MIB)
        self.writer = start_peer("writer", env=TRANSPORT).setup(self.master, segment=0)
        self.other = start_peer("other", env=TRANSPORT).setup(self.master, segment=0)
        self.size = 48 * MIB
        self.holder.freeze()
        self.writer.start_run(put_large, "key", self.size)
        wait_until(lambda: self.master.allocated() >= self.size, "the put has its space", 30)
        self.writer.freeze()
        self.holder.thaw()

    def allocated(self):
        return self.master.allocated()


def test_an_unfinished_put_is_not_readable_and_not_removed(start_master, start_peer):
    caught = Caught(start_master, start_peer)
    assert caught.other.run(see, "key") == UNFINISHED
    with Stopwatch() as watch:
        caught.other.start("put_batch", ["key", "beside"], [b"mine", b"beside"])
        wait_until(lambda: caught.holder.call("get", "beside") == b"beside", "the rest of its batch is stored first")
    assert watch.seconds < 8 * TIME_FACTOR
    caught.writer.thaw()
    assert caught.writer.result(60) == 0
    assert caught.other.result(60) == 0, "the put that met it counts as that put"
    assert caught.holder.call("get_size", "key") == caught.size


@pytest.mark.parametrize("end", ["wakes", "dies"])
def test_an_old_unfinished_put_is_pre_empted_and_its_space_comes_back(end, start_master, start_peer):
    caught = Caught(start_master, start_peer, "--put_start_discard_timeout_sec=1", "--put_start_release_timeout_sec=2")

    def put_again():
        return caught.other.call("put", "key", b"mine") == 0 and caught.other.call("get", "key") == b"mine"

    wait_until(put_again, "past the discard timeout another's put takes the key", 20)
    assert caught.writer.alive() and caught.holder.call("get_size", "key") == 4
    if end == "dies":
        caught.writer.kill()
    else:
        caught.writer.thaw()
        assert caught.writer.result(60) in (0, -700, -704, -800), "0: the key is there, by another's put"
    wait_until(lambda: caught.allocated() < MIB, "the space comes back by its owner's answer", 40)
    assert caught.other.call("get", "key") == b"mine"
    assert caught.holder.call("put", "large", b"x" * MIB) == 0


def test_an_upsert_pre_empts_an_unfinished_put_at_once(start_master, start_peer):
    caught = Caught(start_master, start_peer)
    with Stopwatch() as watch:
        assert caught.other.call("upsert", "key", b"mine") == 0
    assert watch.seconds < 5 * TIME_FACTOR
    assert caught.other.call("get", "key") == b"mine"
    caught.writer.thaw()
    assert caught.writer.result(60) in (0, -700, -704, -800)
    assert caught.other.call("get", "key") == b"mine", "the fenced writer changed nothing"
    wait_until(lambda: caught.allocated() < MIB, "its space comes back", 40)


def test_a_killed_writers_put_never_was(start_master, start_peer):
    caught = Caught(start_master, start_peer, "--put_start_discard_timeout_sec=1", "--put_start_release_timeout_sec=2")
    caught.writer.kill()
    wait_until(lambda: caught.allocated() == 0, "the space comes back", 40)
    assert caught.other.call("is_exist", "key") == 0 and caught.other.call("get_size", "key") == -704
    assert caught.other.call("put", "key", b"mine") == 0 and caught.other.call("get", "key") == b"mine"
