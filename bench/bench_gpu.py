#!/usr/bin/env python3
"""GPU memory to and from the store, beside what the driver itself can do in the same run: `make bench-gpu`.

First the ceilings: pinned and pageable copies both ways, device to device, fragments one by one and in batches. Then the store: whole values in the own
and a same-host segment and through TCP; values in the GPU memory of a second process (device tier) against copies on the device; paged keys (64 layers of
64 KiB fragments) against the same fragments copied by the driver and by torch's Tensor.copy_; the cost of a call with many small fragments; and what a
running matrix product loses beside a load. Every copy's bytes are compared, outside the timed calls. The figure is the median of the rounds.

Results belong into docs/gpu-results.md with the machine, the driver and the date.
"""

import argparse
import ctypes
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "python"))
from cuda_driver import Cuda  # noqa: E402

KIB, MIB = 1024, 1024 * 1024


def name_of(size):
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def median_seconds(fn, rounds):
    fn()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        fn()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


class Report:
    def __init__(self):
        self.rows = []

    def section(self, text):
        print(f"\n{text}", flush=True)

    def add(self, what, size, seconds, total, ceiling=None):
        gbs = total / seconds / 1e9
        share = f"{100 * gbs / ceiling:5.1f} % of the ceiling" if ceiling else ""
        print(f"  {what:<44} {name_of(size) if size else '':>8} {gbs:8.2f} GB/s {seconds * 1e6:10.1f} us  {share}", flush=True)
        self.rows.append({"what": what, "size": size, "gb_per_s": gbs, "us": seconds * 1e6, "ceiling": ceiling})
        return gbs


def fragment_layout(device_of, layers, fragment, keys):
    """(device address, offset in the host's memory) of every fragment of paged keys: a key's are next to each other on the host's side."""
    order = list(range(keys))
    random.Random(1).shuffle(order)
    return order, [(device_of[layer] + page * fragment, (i * layers + layer) * fragment) for i, page in enumerate(order) for layer in range(layers)]


class Ceilings:
    """What the driver does by itself. Every copy's bytes are compared."""

    def __init__(self, cuda, report, sizes, rounds):
        self.h2d, self.d2h, self.d2d = {}, {}, {}
        biggest = max(sizes)
        self.cuda, self.report, self.rounds = cuda, report, rounds
        device, other = cuda.alloc(biggest), cuda.alloc(biggest)
        pinned, back = cuda.pinned(biggest), cuda.pinned(biggest)
        pageable, pageable_back = ctypes.create_string_buffer(biggest), ctypes.create_string_buffer(biggest)
        data = random.Random(3).randbytes(biggest)
        ctypes.memmove(pinned, data, biggest), ctypes.memmove(pageable, data, biggest)
        self.stream = ctypes.c_void_p(cuda.stream())
        report.section("Ceilings")

        def up(host, size):
            cuda.call("cuMemcpyHtoD_v2", ctypes.c_uint64(device), ctypes.c_void_p(host), ctypes.c_size_t(size))

        def down(host, size, source=device):
            cuda.call("cuMemcpyDtoH_v2", ctypes.c_void_p(host), ctypes.c_uint64(source), ctypes.c_size_t(size))

        def across(size):
            cuda.call("cuMemcpyDtoD_v2", ctypes.c_uint64(other), ctypes.c_uint64(device), ctypes.c_size_t(size))
            cuda.call("cuStreamSynchronize", None)

        def check(host, size, what):
            expect(ctypes.string_at(host, size) == data[:size], True, f"bytes of {what}")
            ctypes.memset(host, 0, size)

        for size in sizes:
            self.h2d[size] = report.add("pinned host to device", size, median_seconds(lambda: up(pinned, size), rounds), size)
            self.d2h[size] = report.add("device to pinned host", size, median_seconds(lambda: down(back, size), rounds), size)
            check(back, size, "pinned copies")
            self.d2d[size] = report.add("device to device", size, median_seconds(lambda: across(size), rounds), size)
            down(back, size, other)
            check(back, size, "device to device copies")
        for size in sizes[-2:]:
            report.add("pageable host to device", size, median_seconds(lambda: up(ctypes.addressof(pageable), size), rounds), size)
            report.add("device to pageable host", size, median_seconds(lambda: down(ctypes.addressof(pageable_back), size), rounds), size)
            check(ctypes.addressof(pageable_back), size, "pageable copies")
        for size in (4 * KIB, 64 * KIB):
            count = min(1024, biggest // (2 * size))
            self.fragments(f"{count} fragments", [(device + 2 * i * size, i * size) for i in range(count)], size, pinned, back)
        cuda.free(device)
        cuda.free(other)

    def fragments(self, what, places, size, pinned, back):
        """Copies of fragments between the device and pinned memory, each by itself and all in one batch, both ways."""
        cuda, report, rounds, stream = self.cuda, self.report, self.rounds, self.stream
        count = len(places)
        numbers = ctypes.c_uint64 * count
        on_device = numbers(*(at for at, _ in places))
        lens = (ctypes.c_size_t * count)(*([size] * count))

        class Attributes(ctypes.Structure):
            _fields_ = [("order", ctypes.c_int), ("source", ctypes.c_int * 2), ("target", ctypes.c_int * 2), ("flags", ctypes.c_uint)]

        attributes, start, failed = Attributes(order=1), ctypes.c_size_t(0), ctypes.c_size_t(0)

        def one_by_one(to, source):
            for i in range(count):
                cuda.call("cuMemcpyAsync", ctypes.c_uint64(to[i]), ctypes.c_uint64(source[i]), ctypes.c_size_t(size), stream)
            cuda.call("cuStreamSynchronize", stream)

        def batch(to, source):
            head = (to, source, lens, ctypes.c_size_t(count), ctypes.byref(attributes), ctypes.byref(start), ctypes.c_size_t(1))
            if cuda.version() >= 13000:
                cuda.call("cuMemcpyBatchAsync_v2", *head, stream)
            else:
                cuda.call("cuMemcpyBatchAsync", *head, ctypes.byref(failed), stream)
            cuda.call("cuStreamSynchronize", stream)

        ways = [("a copy each", one_by_one)] + ([("one batch", batch)] if cuda.version() >= 12080 else [])
        for name, copy in ways:
            source, target = numbers(*(pinned + at for _, at in places)), numbers(*(back + at for _, at in places))
            report.add(f"{what} to the device, {name}", size, median_seconds(lambda: copy(on_device, source), rounds), count * size)
            report.add(f"{what} to pinned host, {name}", size, median_seconds(lambda: copy(target, on_device), rounds), count * size)
            same = all(ctypes.string_at(back + at, size) == ctypes.string_at(pinned + at, size) for _, at in places)
            expect(same, True, f"bytes of {what}, {name}")
            ctypes.memset(back, 0, max(at for _, at in places) + size)


class Stores:
    """Three stores of this process: the segment's owner, one that maps it, one that reaches it through TCP only."""

    def __init__(self, segment):
        import socket

        from mooncake.store import MooncakeDistributedStore

        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.by_path = {}
        self.master = f"127.0.0.1:{port}"
        for path, size, master, memcpy in (("own segment", segment, f"embedded:{port}", "1"), ("same host", 0, f"127.0.0.1:{port}", "1"),
                                           ("tcp", 0, f"127.0.0.1:{port}", "0")):
            os.environ["MC_STORE_MEMCPY"] = memcpy
            store = MooncakeDistributedStore()
            if store.setup("localhost", "P2PHANDSHAKE", size, 64 * MIB, "tcp", "", master) != 0:
                sys.exit(f"bench_gpu: no store for {path}")
            self.by_path[path] = store

    def close(self):
        for store in reversed(self.by_path.values()):
            store.close()


def expect(value, wanted, what):
    if value != wanted:
        sys.exit(f"bench_gpu: {what}: {value}, not {wanted}")


def values(cuda, report, stores, ceilings, sizes, rounds):
    for path, store in stores.by_path.items():
        report.section(f"Whole values, {path}")
        for size in sizes:
            data = random.Random(size).randbytes(size)
            ptr, back = cuda.alloc(size), cuda.alloc(size)
            cuda.write(ptr, data)
            store.register_buffer(ptr, size)
            store.register_buffer(back, size)
            key = f"value-{path}-{size}"
            expect(store.put_from(key, ptr, size), 0, key)
            ceiling = path != "tcp"
            report.add("upsert_from", size, median_seconds(lambda: expect(store.upsert_from(key, ptr, size), 0, key), rounds), size,
                       ceilings.d2h[size] if ceiling else None)
            report.add("get_into", size, median_seconds(lambda: expect(store.get_into(key, back, size), size, key), rounds), size,
                       ceilings.h2d[size] if ceiling else None)
            expect(cuda.read(back, size) == data, True, f"bytes of {key}")
            store.remove(key, True)
            for buffer in (ptr, back):
                store.unregister_buffer(buffer)
                cuda.free(buffer)


def device_tier(cuda, report, stores, ceilings, sizes, rounds):
    """Values in a segment on cuda:0 that another process has mounted, written and read by this one."""
    from python_worker import Worker

    from mooncake.store import ReplicateConfig

    room = 4 * max(sizes) + 64 * MIB  # an upsert needs room for both values until its leases are over
    log = pathlib.Path(tempfile.NamedTemporaryFile(prefix="bench-gpu-tier-", suffix=".log", delete=False).name)
    owner = Worker(os.environ["PYTHONPATH"], log)
    try:
        owner(f"sys.path.insert(0, {os.path.dirname(os.path.abspath(sys.modules['cuda_driver'].__file__))!r})")
        owner("from cuda_driver import Cuda; cuda = Cuda().start(); cuda.use(0)")
        expect(owner(f"connect({stores.master!r}, 0)"), 0, "setup of the second process")
        expect(owner(f"store.allocate_and_mount_segment({room}, location='cuda:0')['ret']"), 0, "segment of the second process")
        config = ReplicateConfig()
        config.preferred_segments = [owner("store.get_hostname()") + "/cuda:0"]
        store = stores.by_path["same host"]
        report.section("Device tier by IPC from a second process (goal: 90 % of device to device)")
        for size in sizes:
            data = random.Random(size).randbytes(size)
            ptr, back = cuda.alloc(size), cuda.alloc(size)
            cuda.write(ptr, data)
            store.register_buffer(ptr, size)
            store.register_buffer(back, size)
            keys = [f"tier-{size}-{i}" for i in range(rounds + 1)]
            times = []
            for key in keys:
                began = time.perf_counter()
                expect(store.put_from(key, ptr, size, config), 0, key)
                times.append(time.perf_counter() - began)
                if key != keys[-1]:
                    store.remove(key, True)
            before = store.counters()["bytes_same_host_read"]
            report.add("put_from", size, statistics.median(times[1:]), size, ceilings.d2d[size])
            report.add("get_into", size, median_seconds(lambda: expect(store.get_into(keys[-1], back, size), size, "get"), rounds), size,
                       ceilings.d2d[size])
            expect(store.counters()["bytes_same_host_read"] - before, (rounds + 1) * size, "bytes that came straight")
            expect(cuda.read(back, size) == data, True, f"bytes of {keys[-1]}")
            store.remove(keys[-1], True)
            for buffer in (ptr, back):
                store.unregister_buffer(buffer)
                cuda.free(buffer)
        expect(owner("store.close()"), 0, "close of the second process")
    finally:
        owner.kill()
        log.unlink()


def paged(cuda, report, stores, ceilings, layers, fragment, keys, rounds):
    total = layers * fragment * keys
    ceiling = max(ceilings.h2d.values()), max(ceilings.d2h.values())
    memory = [cuda.alloc(fragment * keys) for _ in range(layers)]
    data = [random.Random(i).randbytes(fragment * keys) for i in range(layers)]
    for ptr, bytes_ in zip(memory, data):
        cuda.write(ptr, bytes_)
    order, places = fragment_layout(memory, layers, fragment, keys)
    report.section(f"Paged keys by the driver: {keys} keys of {layers} fragments")
    pinned, back = cuda.pinned(total), cuda.pinned(total)
    for at, offset in places:
        cuda.call("cuMemcpyDtoH_v2", ctypes.c_void_p(pinned + offset), ctypes.c_uint64(at), ctypes.c_size_t(fragment))
    ceilings.fragments("paged", places, fragment, pinned, back)
    names = {path: [f"page-{path}-{i}" for i in range(keys)] for path in stores.by_path}
    ptrs = [[ptr + i * fragment for ptr in memory] for i in order]
    sizes = [[fragment] * layers] * keys
    for path, store in stores.by_path.items():
        report.section(f"Paged keys, {path}: {keys} keys of {layers} fragments")
        for ptr in memory:
            store.register_buffer(ptr, fragment * keys)

        def put():
            for name in names[path]:
                store.remove(name, True)
            began = time.perf_counter()
            expect(store.batch_put_from_multi_buffers(names[path], ptrs, sizes), [0] * keys, "put")
            return time.perf_counter() - began

        put()
        seconds = statistics.median(put() for _ in range(rounds))
        report.add("gather (put)", fragment, seconds, total, ceiling[1] if path != "tcp" else None)
        for ptr in memory:
            cuda.write(ptr, bytes(fragment * keys))
        seconds = median_seconds(lambda: expect(store.batch_get_into_multi_buffers(names[path], ptrs, sizes), [fragment * layers] * keys, "get"), rounds)
        report.add("scatter (get)", fragment, seconds, total, ceiling[0] if path != "tcp" else None)
        for ptr, bytes_ in zip(memory, data):
            expect(cuda.read(ptr, fragment * keys) == bytes_, True, "bytes of a layer")
            store.unregister_buffer(ptr)
        for name in names[path]:
            store.remove(name, True)
    for ptr in memory:
        cuda.free(ptr)


class CStore:
    """A store by libmcstore's C API: what a call costs without Python's lists."""

    class Setup(ctypes.Structure):
        _fields_ = [("struct_size", ctypes.c_size_t), ("local_hostname", ctypes.c_char_p), ("metadata_server", ctypes.c_char_p),
                    ("segment", ctypes.c_uint64), ("buffer", ctypes.c_uint64), ("protocol", ctypes.c_char_p), ("rdma_devices", ctypes.c_char_p),
                    ("master", ctypes.c_char_p), ("tenant", ctypes.c_char_p), ("flags", ctypes.c_uint32), ("http", ctypes.c_int),
                    ("http_port", ctypes.c_uint32)]  # fmt: skip

    class Pair(ctypes.Structure):
        """iovec, mcs_bytes_t, mcs_value_t."""

        _fields_ = [("ptr", ctypes.c_void_p), ("len", ctypes.c_size_t)]

    def __init__(self, library, master):
        self.lib = ctypes.CDLL(library)
        self.lib.mcs_store_create.restype = ctypes.c_void_p
        self.store = ctypes.c_void_p(self.lib.mcs_store_create())
        setup = self.Setup(ctypes.sizeof(self.Setup), b"localhost", b"P2PHANDSHAKE", 0, 0, b"tcp", b"", master.encode())
        if self.lib.mcs_store_setup(self.store, ctypes.byref(setup)) != 0:
            raise OSError("mcs_store_setup failed")

    def getter(self, key, fragments):
        """A function that gets the key into (address, bytes) each."""
        name = self.Pair(ctypes.cast(ctypes.c_char_p(key), ctypes.c_void_p), len(key))
        iov = (self.Pair * len(fragments))(*(self.Pair(ptr, size) for ptr, size in fragments))
        value, result = self.Pair(ctypes.cast(iov, ctypes.c_void_p), len(fragments)), ctypes.c_int64()
        kept = (key, iov)

        def get():
            self.lib.mcs_get_into(self.store, ctypes.byref(name), ctypes.byref(value), ctypes.c_size_t(1), ctypes.byref(result))
            return result.value if kept else 0

        return get

    def close(self):
        self.lib.mcs_store_destroy(self.store)


def overhead(cuda, report, stores, ceilings, rounds):
    report.section("Cost of a call beyond its bytes: 1024 fragments of 4 KiB, same host (goal: 50 us)")
    store, count, size = stores.by_path["own segment"], 1024, 4 * KIB
    data = random.Random(9).randbytes(count * size)
    ptr = cuda.alloc(count * size * 2)
    fragments = [(ptr + 2 * i * size, size) for i in range(count)]
    for i, (at, _) in enumerate(fragments):
        cuda.write(at, data[i * size : (i + 1) * size])
    expect(store.batch_put_from_multi_buffers(["many"], [[at for at, _ in fragments]], [[size] * count]), [0], "put")
    bytes_alone = count * size / (max(ceilings.h2d.values()) * 1e9)

    def measure(what, get):
        cuda.write(ptr, bytes(2 * count * size))
        seconds = median_seconds(lambda: expect(get(), count * size, "get"), rounds)
        expect(all(cuda.read(at, size) == data[i * size : (i + 1) * size] for i, (at, _) in enumerate(fragments)), True, "bytes of fragments")
        report.add(f"get of 1024 fragments, {what}", size, seconds, count * size)
        beyond = (seconds - bytes_alone) * 1e6
        print(f"  beyond the bytes: {beyond:.1f} us")
        report.rows.append({"what": f"overhead of 1024 fragments, {what}", "us": beyond})

    ptrs, sizes = [[at for at, _ in fragments]], [[size] * count]
    same = stores.by_path["same host"]
    measure("by Python, its lists of 1024 numbers included", lambda: same.batch_get_into_multi_buffers(["many"], ptrs, sizes)[0])
    library = os.path.join(os.environ.get("MCS_BUILD_DIR", ""), "libmcstore.so")
    if os.path.exists(library):
        by_c = CStore(library, stores.master)
        measure("by C", by_c.getter(b"many", fragments))
        by_c.close()
    else:
        print(f"  by C: left out ({library} is not here)")
    store.remove("many", True)
    cuda.free(ptr)


def with_torch(report, stores, layers, fragment, keys, rounds):
    try:
        import torch

        if not torch.cuda.is_available():
            raise ImportError("no GPU")
    except ImportError as error:
        print(f"\ntorch: left out ({error})")
        return
    torch_pages(torch, report, layers, fragment, keys, rounds)
    beside_matmul(torch, report, stores.by_path["own segment"], rounds)


def torch_pages(torch, report, layers, fragment, keys, rounds):
    """The paged keys' fragments by Tensor.copy_."""
    report.section(f"Paged keys by torch: {keys} keys of {layers} fragments, Tensor.copy_ of each")
    memory = [torch.randint(0, 256, (keys, fragment), dtype=torch.uint8, device="cuda") for _ in range(layers)]
    host = torch.empty((keys, layers, fragment), dtype=torch.uint8, pin_memory=True)
    order = list(range(keys))
    random.Random(1).shuffle(order)
    pairs = [(memory[layer][page], host[i][layer]) for i, page in enumerate(order) for layer in range(layers)]
    wanted = [layer.clone() for layer in memory]

    def copy(down):
        for page, buffer in pairs:
            (buffer if down else page).copy_(page if down else buffer, non_blocking=True)
        torch.cuda.current_stream().synchronize()

    report.add("gather by Tensor.copy_", fragment, median_seconds(lambda: copy(True), rounds), layers * fragment * keys)
    for layer in memory:
        layer.zero_()
    report.add("scatter by Tensor.copy_", fragment, median_seconds(lambda: copy(False), rounds), layers * fragment * keys)
    expect(all(torch.equal(a, b) for a, b in zip(memory, wanted)), True, "bytes of torch's copies")


def beside_matmul(torch, report, store, rounds):
    report.section("A matrix product beside a load (goal: it loses at most 5 %)")
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    value = torch.randint(0, 256, (256 * MIB,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(value)
    torch.cuda.current_stream().synchronize()
    expect(store.put_from("beside", value.data_ptr(), value.nbytes), 0, "put")
    wanted = torch.matmul(a, a)

    def product():
        for _ in range(20):
            result = torch.matmul(a, a)
        torch.cuda.current_stream().synchronize()
        return result

    alone = median_seconds(product, rounds)
    stop, loads = threading.Event(), []

    def load():
        while not stop.is_set():
            loads.append(store.get_into("beside", target.data_ptr(), target.nbytes))

    thread = threading.Thread(target=load)
    thread.start()
    beside = median_seconds(product, rounds)
    expect(torch.equal(product(), wanted), True, "the product beside a load")
    stop.set()
    thread.join()
    expect(set(loads), {value.nbytes}, "loads beside the product")
    expect(torch.equal(value, target), True, "bytes of the loads")
    lost = 100 * (beside / alone - 1)
    print(f"  20 products of 8192^3: {alone * 1e3:.2f} ms alone, {beside * 1e3:.2f} ms beside {len(loads)} loads of 256 MiB: {lost:.1f} %")
    report.rows.append({"what": "matmul slowdown", "percent": lost})
    store.remove("beside", True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: does it run?")
    parser.add_argument("--json", metavar="FILE", help="the figures, for docs/gpu-results.md")
    args = parser.parse_args()
    rounds = 3 if args.quick else 15
    sizes = [64 * KIB, MIB] if args.quick else [64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB]
    layers, keys, segment = (8, 4, 128 * MIB) if args.quick else (64, 64, 4096 * MIB)
    cuda = Cuda().start()
    cuda.use(0)
    print(f"{cuda.name()}, driver {cuda.version() // 1000}.{cuda.version() % 1000 // 10}, {cuda.count()} device(s)"
          + ("" if cuda.is_real else " - THE FAKE DRIVER: these figures mean nothing"))
    report = Report()
    ceilings = Ceilings(cuda, report, sizes, rounds)
    stores = Stores(segment)
    try:
        values(cuda, report, stores, ceilings, sizes, rounds)
        device_tier(cuda, report, stores, ceilings, sizes, rounds)
        paged(cuda, report, stores, ceilings, layers, 64 * KIB, keys, rounds)
        overhead(cuda, report, stores, ceilings, rounds)
        with_torch(report, stores, layers, 64 * KIB, keys, rounds)
    finally:
        stores.close()
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"device": cuda.name(), "driver": cuda.version(), "rows": report.rows}, file, indent=1)


if __name__ == "__main__":
    main()
