"""The GIL is released while a call waits; close, setup and calls meet on many threads; Ctrl-C ends a call."""

import ctypes
import signal
import threading
import time

import pytest
from python_support import SETUP, wait_until

DATA = (ctypes.c_char * 64)()
P = ctypes.addressof(DATA)
BLOCKING = {
    "put": ("!block", b"v"),
    "upsert": ("!block", b"v"),
    "put_batch": (["a", "!block"], [b"v", b"w"]),
    "put_parts": ("!block", b"v"),
    "put_from": ("!block", P, 4),
    "put_from_with_metadata": ("!block", P, P, 4, 4),
    "batch_put_from": (["!block"], [P], [4]),
    "batch_put_from_multi_buffers": (["!block"], [[P]], [[4]]),
    "get": ("!block",),
    "get_batch": (["!block"],),
    "get_buffer": ("!block",),
    "batch_get_buffer": (["!block"],),
    "get_into": ("!block", P, 4),
    "batch_get_into": (["!block"], [P], [4]),
    "batch_get_into_multi_buffers": (["!block"], [[P]], [[4]]),
    "get_size": ("!block",),
    "is_exist": ("!block",),
    "batch_is_exist": (["!block"],),
    "remove": ("!block",),
    "batch_remove": (["!block"],),
    "get_replica_desc": ("!block",),
    "batch_get_replica_desc": (["!block"],),
}
FAILED = {"get": b"", "get_batch": [b""], "get_buffer": None, "batch_get_buffer": [None], "get_replica_desc": [], "batch_get_replica_desc": {}}


@pytest.mark.parametrize("method", BLOCKING)
def test_a_waiting_call_leaves_the_gil_to_others_and_ends_with_close(fake, method):
    store = fake.MooncakeDistributedStore()
    assert store.setup(*SETUP) == 0
    results = []
    started = threading.Event()

    def call():
        started.set()
        results.append(getattr(store, method)(*BLOCKING[method]))

    thread = threading.Thread(target=call)
    thread.start()
    assert started.wait(10)
    time.sleep(0.05)  # the call waits now, or is about to: either way it must not hold what close needs
    assert store.close() == 0
    thread.join(10)
    assert not thread.is_alive()
    (result,) = results
    if method in FAILED:
        assert result == FAILED[method]
    elif method == "put_from_with_metadata":
        assert result in (600, -600)
    else:
        assert result in (-600, [-600], [])


@pytest.mark.parametrize("method", BLOCKING)
def test_ctrl_c_ends_a_call(fake, method):
    store = fake.MooncakeDistributedStore()
    assert store.setup(*SETUP) == 0
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    timer.start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        getattr(store, method)(*BLOCKING[method])
    assert time.monotonic() - begin < 5
    timer.join()
    assert store.put("after", b"v") == 0
    counters = store.counters()
    assert counters["gets"] == 0 and counters["handles"] == 0
    store.close()


def test_the_users_signal_handler_runs_and_its_exception_passes(fake):
    store = fake.MooncakeDistributedStore()
    assert store.setup(*SETUP) == 0
    calls = []

    def quiet(number, frame):
        calls.append(number)
        threading.Timer(0.05, store.close).start()

    def loud(number, frame):
        raise LookupError("from the handler")

    before = signal.signal(signal.SIGUSR1, quiet)
    try:
        threading.Timer(0.05, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)).start()
        assert store.get("!block") == b""
        assert calls == [signal.SIGUSR1]
        assert store.setup(*SETUP) == 0
        signal.signal(signal.SIGUSR1, loud)
        threading.Timer(0.05, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)).start()
        with pytest.raises(LookupError):
            store.is_exist("!block")
    finally:
        signal.signal(signal.SIGUSR1, before)
        store.close()


def test_a_signal_handler_may_use_the_store(fake):
    store = fake.MooncakeDistributedStore()
    assert store.setup(*SETUP) == 0
    seen = []

    def handler(number, frame):
        seen.append((store.upsert("from handler", bytes([len(seen)])), store.get("from handler")))
        if len(seen) == 3:
            raise LookupError

    def send():
        for count in (1, 2, 3):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            wait_until(lambda: len(seen) == count, "the handler ran")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        thread = threading.Timer(0.05, send)
        thread.start()
        with pytest.raises(LookupError):
            store.get("!block")
        thread.join()
        assert seen == [(0, b"\0"), (0, b"\1"), (0, b"\2")]
    finally:
        signal.signal(signal.SIGUSR1, before)
        store.close()


def test_calls_setup_and_close_on_many_threads(fake):
    store = fake.MooncakeDistributedStore()
    stop = threading.Event()
    failures = []

    def work(number):
        keys = [f"{number}-{i}" for i in range(8)]
        value = bytes([number]) * 500
        out = (ctypes.c_char * 500)()
        try:
            while not stop.is_set():
                assert store.put_batch(keys, [value] * 8) in (0, -600)
                for data in store.get_batch(keys):
                    assert data in (b"", value)
                for handle in store.batch_get_buffer(keys):
                    assert handle is None or bytes(handle) == value
                assert store.register_buffer(ctypes.addressof(out), 500) in (0, -600)
                assert store.get_into(keys[0], ctypes.addressof(out), 500) in (500, -600, -704)
                assert store.unregister_buffer(ctypes.addressof(out)) in (0, -600)
                assert all(result in (0, -600, -704) for result in store.batch_remove(keys))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        assert store.setup(*SETUP) == 0
        time.sleep(0.005)
        assert store.close() == 0
    stop.set()
    for thread in threads:
        thread.join(20)
    assert failures == []
    wait_until(lambda: store.counters()["handles"] == 0, "handles are released")


def test_arguments_changed_during_a_call_change_nothing(fake):
    store = fake.MooncakeDistributedStore()
    assert store.setup(*SETUP) == 0
    keys, value = ["m1", "!block", "m2"], bytearray(b"before")
    config = fake.ReplicateConfig(group_ids=["a", "b", "c"], preferred_segments=["x" * 1000])
    thread = threading.Thread(target=store.put_batch, args=(keys, [value, value, value], config))
    thread.start()
    time.sleep(0.05)
    keys.clear()
    config.group_ids, config.preferred_segments = None, []
    with pytest.raises(BufferError):
        value.extend(b"x" * 100)
    store.close()
    thread.join(10)
    value.extend(b"x" * 100)
    assert store.setup(*SETUP) == 0
    assert store.get("m1") == b"before"
    store.close()
