#!/usr/bin/env python3
"""GPU memory to and from the store, beside what the driver itself can do in the same run: `make bench-gpu`.

First the ceilings: pinned and pageable copies both ways, device to device, batched copies of fragments. Then the store: whole values in the own and
a same-host segment and through TCP, values in the GPU memory of a second process (device tier) against copies on the device, paged keys (64 layers of 64 KiB fragments) against a copy per fragment, the cost of a call with many small
fragments, and, with torch, tensors against Tensor.copy_ and what a running matrix product loses. Every value read is checked outside the timed calls.
The figure is the median of the rounds.

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


class Ceilings:
    """What the driver does by itself."""

    def __init__(self, cuda, report, sizes, rounds):
        self.h2d, self.d2h, self.d2d = {}, {}, {}
        biggest = max(sizes)
        device, other = cuda.alloc(biggest), cuda.alloc(biggest)
        pinned = cuda.pinned(biggest)
        pageable = ctypes.create_string_buffer(biggest)
        ctypes.memset(pageable, 1, biggest)
        stream = ctypes.c_void_p()
        cuda.call("cuStreamCreate", ctypes.byref(stream), 1)
        report.section("Ceilings")

        def up(host, size):
            cuda.call("cuMemcpyHtoD_v2", ctypes.c_uint64(device), ctypes.c_void_p(host), ctypes.c_size_t(size))

        def down(host, size):
            cuda.call("cuMemcpyDtoH_v2", ctypes.c_void_p(host), ctypes.c_uint64(device), ctypes.c_size_t(size))

        def across(size):
            cuda.call("cuMemcpyDtoD_v2", ctypes.c_uint64(other), ctypes.c_uint64(device), ctypes.c_size_t(size))
            cuda.call("cuStreamSynchronize", None)

        for size in sizes:
            self.h2d[size] = report.add("pinned host to device", size, median_seconds(lambda: up(pinned, size), rounds), size)
            self.d2h[size] = report.add("device to pinned host", size, median_seconds(lambda: down(pinned, size), rounds), size)
            self.d2d[size] = report.add("device to device", size, median_seconds(lambda: across(size), rounds), size)
        for size in sizes[-2:]:
            report.add("pageable host to device", size, median_seconds(lambda: up(ctypes.addressof(pageable), size), rounds), size)
            report.add("device to pageable host", size, median_seconds(lambda: down(ctypes.addressof(pageable), size), rounds), size)
        if cuda.version() >= 13000:
            self.batches(cuda, report, device, pinned, stream, biggest, rounds)
        cuda.free(device)
        cuda.free(other)

    @staticmethod
    def batches(cuda, report, device, pinned, stream, room, rounds):
        class Attributes(ctypes.Structure):
            _fields_ = [("order", ctypes.c_int), ("source", ctypes.c_int * 2), ("target", ctypes.c_int * 2), ("flags", ctypes.c_uint)]

        for size in (4 * KIB, 64 * KIB):
            count = min(1024, room // (2 * size))
            numbers = ctypes.c_uint64 * count
            to = numbers(*(device + 2 * i * size for i in range(count)))
            source = numbers(*(pinned + i * size for i in range(count)))
            lens = (ctypes.c_size_t * count)(*([size] * count))
            attributes, start = Attributes(order=1), ctypes.c_size_t(0)

            def one_by_one(to=to, source=source, size=size, count=count):
                for i in range(count):
                    cuda.call("cuMemcpyAsync", ctypes.c_uint64(to[i]), ctypes.c_uint64(source[i]), ctypes.c_size_t(size), stream)
                cuda.call("cuStreamSynchronize", stream)

            def batch(to=to, source=source, lens=lens, count=count, attributes=attributes, start=start):
                cuda.call("cuMemcpyBatchAsync_v2", to, source, lens, ctypes.c_size_t(count), ctypes.byref(attributes), ctypes.byref(start),
                          ctypes.c_size_t(1), stream)
                cuda.call("cuStreamSynchronize", stream)

            report.add(f"{count} fragments, a copy each", size, median_seconds(one_by_one, rounds), count * size)
            report.add(f"{count} fragments, one batch", size, median_seconds(batch, rounds), count * size)


class Stores:
    """Three stores of this process: the segment's owner, one that maps it, one that reaches it through TCP only."""

    def __init__(self, segment):
        import socket

        from mooncake.store import MooncakeDistributedStore

        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.by_path, self.master = {}, f"127.0.0.1:{port}"
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
    for path, store in stores.by_path.items():
        report.section(f"Paged keys, {path}: {keys} keys of {layers} fragments")
        memory = [cuda.alloc(fragment * keys) for _ in range(layers)]
        data = [random.Random(i).randbytes(fragment * keys) for i in range(layers)]
        for ptr, bytes_ in zip(memory, data):
            cuda.write(ptr, bytes_)
            store.register_buffer(ptr, fragment * keys)
        order = list(range(keys))
        random.Random(1).shuffle(order)
        names = [f"page-{path}-{i}" for i in range(keys)]
        ptrs = [[ptr + i * fragment for ptr in memory] for i in order]
        sizes = [[fragment] * layers] * keys

        def put():
            for name in names:
                store.remove(name, True)
            began = time.perf_counter()
            expect(store.batch_put_from_multi_buffers(names, ptrs, sizes), [0] * keys, "put")
            return time.perf_counter() - began

        put()
        seconds = statistics.median(put() for _ in range(rounds))
        report.add("gather (put)", fragment, seconds, total, ceiling[1] if path != "tcp" else None)
        seconds = median_seconds(lambda: expect(store.batch_get_into_multi_buffers(names, ptrs, sizes), [fragment * layers] * keys, "get"), rounds)
        report.add("scatter (get)", fragment, seconds, total, ceiling[0] if path != "tcp" else None)
        for ptr, bytes_ in zip(memory, data):
            expect(cuda.read(ptr, fragment * keys) == bytes_, True, "bytes of a layer")
            store.unregister_buffer(ptr)
            cuda.free(ptr)
        for name in names:
            store.remove(name, True)


def overhead(cuda, report, stores, ceilings, rounds):
    report.section("Cost of a call beyond its bytes: 1024 fragments of 4 KiB, own segment (goal: 50 us)")
    store, count, size = stores.by_path["own segment"], 1024, 4 * KIB
    ptr = cuda.alloc(count * size * 2)
    store.register_buffer(ptr, count * size * 2)
    ptrs, sizes = [[ptr + 2 * i * size for i in range(count)]], [[size] * count]
    expect(store.batch_put_from_multi_buffers(["many"], ptrs, sizes), [0], "put")
    seconds = median_seconds(lambda: store.batch_get_into_multi_buffers(["many"], ptrs, sizes), rounds)
    report.add("get of 1024 fragments", size, seconds, count * size)
    bytes_alone = count * size / (max(ceilings.h2d.values()) * 1e9)
    print(f"  beyond the bytes: {(seconds - bytes_alone) * 1e6:.1f} us (Python's lists of 1024 numbers included)")
    store.remove("many", True)
    store.unregister_buffer(ptr)
    cuda.free(ptr)


def with_torch(report, stores, rounds):
    try:
        import torch

        if not torch.cuda.is_available():
            raise ImportError("no GPU")
    except ImportError as error:
        print(f"\ntorch: left out ({error})")
        return
    store = stores.by_path["own segment"]
    report.section("torch: 64 fragments of 64 KiB by Tensor.copy_, and a matrix product beside a load")
    pages = [torch.randint(0, 127, (64 * KIB,), dtype=torch.uint8, device="cuda") for _ in range(64)]
    host = [torch.empty(64 * KIB, dtype=torch.uint8, pin_memory=True) for _ in range(64)]

    def copy():
        for page, buffer in zip(pages, host):
            page.copy_(buffer, non_blocking=True)
        torch.cuda.synchronize()

    report.add("Tensor.copy_ of 64 fragments", 64 * KIB, median_seconds(copy, rounds), 64 * 64 * KIB)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    big = torch.empty(256 * MIB, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    expect(store.put_from("beside", big.data_ptr(), big.nbytes), 0, "put")

    def product():
        for _ in range(20):
            torch.matmul(a, a)
        torch.cuda.synchronize()

    alone = median_seconds(product, rounds)
    import threading

    stop = threading.Event()

    def load():
        while not stop.is_set():
            store.get_into("beside", big.data_ptr(), big.nbytes)

    thread = threading.Thread(target=load)
    thread.start()
    beside = median_seconds(product, rounds)
    stop.set()
    thread.join()
    print(f"  20 products of 8192^3: {alone * 1e3:.2f} ms alone, {beside * 1e3:.2f} ms beside a load: {100 * (beside / alone - 1):.1f} % (goal: 5 %)")
    report.rows.append({"what": "matmul slowdown", "percent": 100 * (beside / alone - 1)})
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
        with_torch(report, stores, rounds)
    finally:
        stores.close()
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"device": cuda.name(), "driver": cuda.version(), "rows": report.rows}, file, indent=1)


if __name__ == "__main__":
    main()
