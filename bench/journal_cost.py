"""What the master's journal costs a put, through the Python API with data: with and without it, by turns.

    MCS_BUILD_DIR=build/release PYTHONPATH=. python bench/journal_cost.py FOLDER [ROUNDS]

FOLDER is made for the journal, and deleted. Prints puts a second and the CPU of client and master a put: medians and best of ROUNDS (default 5). On a
machine that does other things, too, the CPU says more. Processes and their ports are those of the system tests.
"""

import os
import shutil
import statistics
import sys
import time

from tests.support.processes import MIB, Master, Peer, Scratch

CASES = [("4 KiB, batches of 32", 4096, 32, 200000), ("1 MiB", MIB, 1, 1000)]
SEGMENT = 1400 * MIB
THREADS = 2


def put(store, tag, size, batch, total, threads):
    """In the client: seconds, and seconds of CPU."""
    import os
    import threading
    import time

    value = os.urandom(size)

    def work(number):
        for first in range(0, total // threads, batch):
            keys = [f"bench-model@tp:0@pp:0@{tag}{number}@{(first + i) * 0x9e3779b97f4a7c15 % 2**64:016x}" for i in range(batch)]
            code = store.put_batch(keys, [value] * batch) if batch > 1 else store.put(keys[0], value)
            assert code == 0, code

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    began, cpu = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began, time.process_time() - cpu


def cpu_of(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(folder, size: int, batch: int, total: int) -> tuple[float, float]:
    """Puts a second; microseconds of CPU a put."""
    scratch = Scratch()
    master = Master(scratch, *([f"--journal_dir={folder}"] if folder else []))
    peer = Peer(scratch).setup(master, segment=SEGMENT)
    peer.run(put, "warm", size, batch, total // 4, THREADS)  # memory is faulted in
    peer.call("remove_all", True)
    time.sleep(1)
    before = cpu_of(master.pid)
    seconds, cpu = peer.run(put, "run", size, batch, total, THREADS, timeout=300)
    cpu += cpu_of(master.pid) - before
    peer.close()
    master.stop()
    scratch.close()
    if folder:
        shutil.rmtree(folder)
    return total / seconds, cpu / total * 1e6


def main() -> None:
    folder = os.path.abspath(sys.argv[1])
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    for name, size, batch, total in CASES:
        results = {"no journal": [], "journal": []}
        for turn in range(rounds):
            for kind in list(results) if turn % 2 else reversed(results):
                results[kind].append(measure(folder if kind == "journal" else None, size, batch, total))
        for kind, values in results.items():
            rate, cpu = zip(*values)
            print(f"{name:22} {kind:11} puts/s {statistics.median(rate):8.0f} (best {max(rate):8.0f})   CPU {statistics.median(cpu):7.2f} us a put "
                  f"(best {min(cpu):7.2f})", flush=True)


if __name__ == "__main__":
    main()
