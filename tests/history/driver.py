"""Runs the processes of the history test, hurts them, and has their journals checked.

A run follows from its seed: the workers' operations, the faults and their pauses (not how the machine interleaves them). What a fault may do is told to
the checker as windows of time: a holder (or the master) that is killed, stopped or leaves may lose values and hides them until everything has
settled; a reader that is killed or stopped may do nothing at all.
"""

import dataclasses
import pathlib
import random
import time

from tests.history.checker import Rules, TooHard, Violation, check, windows_joined
from tests.history.journals import TRANSFER_TIMEOUT, History, Process
from tests.support.processes import MIB, Master, Peer, Scratch

LEASE = 1.0
TTL = 2
SETTLE = TTL + 3.0  # from the end of a fault until nothing is hidden or lost any more: the TTL, the second of steadiness, a busy machine
PATHS = {"same_host": {"MC_STORE_MEMCPY": "1"}, "transport": {"MC_STORE_MEMCPY": "0"}}


@dataclasses.dataclass
class Plan:
    seed: int
    seconds: float
    path: str = "same_host"
    faults: tuple = ()  # of "kill", "stop", "restart" (a clean end, and anew), "master"
    small: bool = False  # segments that evict
    holders: int = 3
    readers: int = 2
    threads: int = 2
    calm: tuple = (0.2, 9.0)  # shortest and longest pause between faults


@dataclasses.dataclass
class Outcome:
    plan: Plan
    operations: int
    codes: dict
    faults: list
    metrics: dict
    problems: list
    widest: int

    def __str__(self):
        codes: dict[str, list] = {}
        for (what, code), count in sorted(self.codes.items(), key=str):
            codes.setdefault(what, []).append(f"{code}:{count}")
        table = "; ".join(f"{what} {' '.join(counts)}" for what, counts in codes.items())
        evicted = {k: int(v) for k, v in self.metrics.items() if "evict" in k and v}
        return (f"{self.plan}\n  {self.operations} operations on keys: {table}\n  evictions {evicted}; at most {self.widest} configurations"
                f"\n  faults: {' '.join(self.faults) or 'none'}" + "".join(f"\n{p}" for p in self.problems))


def work(store, settings):
    """Runs in a worker."""
    from tests.history.worker import run
    return run(store, settings)


class _Worker:
    def __init__(self, run: "_Run", writer: int, segment: int):
        self.segment = segment
        kind = "holder" if segment else "reader"
        self.process = Process(writer, f"{kind}{writer}", run.scratch.path / f"journal-{writer}")
        self.stop_file = run.scratch.path / f"stop-{writer}"
        env = PATHS[run.plan.path] | {"MC_TRANSFER_TIMEOUT": str(TRANSFER_TIMEOUT), "MC_RPC_TIMEOUT_MS": "3000"}
        self.peer = Peer(run.scratch, self.process.name, env=env)
        self.peer.start_run(work, {"master": run.master.address, "segment": segment, "keys": run.keys, "seed": run.plan.seed, "writer": writer,
                                   "threads": run.plan.threads, "journal": str(self.process.journal), "stop": str(self.stop_file)})

    def finish(self) -> None:
        self.stop_file.touch()
        self.peer.result(60)


class _Run:
    def __init__(self, plan: Plan, scratch: Scratch):
        self.plan, self.scratch = plan, scratch
        self.rng = random.Random(plan.seed)
        self.keys = [f"key {n}" for n in range(20 if plan.small else 6)]
        self.segment = (5 if plan.small else 96) * MIB
        self.windows: list[tuple[float, float]] = []
        self.told: list[str] = []
        self.problems: list[str] = []
        self.writers = 0
        self.processes: list[Process] = []
        self.workers: list[_Worker] = []
        # A restarted master has its index with a journal, and none without: every second seed.
        journal = [f"--journal_dir={scratch.folder('master-journal')}"] if plan.seed % 2 else []
        self.master = Master(scratch, f"--default_kv_lease_ttl={int(LEASE * 1000)}", f"--client_ttl={TTL}", *journal)

    def add(self, segment: int) -> None:
        self.writers += 1
        worker = _Worker(self, self.writers, segment)
        self.workers.append(worker)
        self.processes.append(worker.process)

    def go(self) -> None:
        for _ in range(self.plan.holders):
            self.add(self.segment)
        for _ in range(self.plan.readers):
            self.add(0)
        began = time.monotonic()
        end = began + self.plan.seconds
        while True:
            longest = self.rng.choice((self.plan.calm[0], self.plan.calm[0], self.plan.calm[1])) if self.told else self.plan.calm[0]
            pause = longest * self.rng.random() + 0.3  # the first fault comes soon, so that a short run has one
            if not self.plan.faults or time.monotonic() + pause > end:
                time.sleep(max(0.0, end - time.monotonic()))
                break
            time.sleep(pause)
            fault = self.rng.choice(self.plan.faults)
            at = time.monotonic()
            self.told.append(f"{at:.3f}:{fault}")
            getattr(self, "_" + fault)()
            self._check_alive()
        for worker in self.workers:
            worker.stop_file.touch()
        for worker in self.workers:
            worker.finish()

    def _check_alive(self) -> None:
        for worker in self.workers:
            assert worker.peer.alive(), f"{worker.process.name} died by itself\n{worker.peer.log()[-3000:]}"
        assert self.master.alive(), f"the master died by itself\n{self.master.log()[-3000:]}"

    def _window(self, worker: _Worker | None, began: float) -> None:
        if worker is None or worker.segment:
            self.windows.append((began, time.monotonic() + SETTLE))

    def _pick(self) -> _Worker:
        worker = self.rng.choice(self.workers)
        self.told[-1] += f"({worker.process.name})"
        return worker

    def _kill(self) -> None:
        worker, began = self._pick(), time.monotonic()
        worker.peer.kill()
        worker.process.died = time.monotonic()
        self.workers.remove(worker)
        self._window(worker, began)
        time.sleep(self.rng.random())
        self.add(worker.segment)

    def _stop(self) -> None:
        worker, began = self._pick(), time.monotonic()
        worker.peer.freeze()
        time.sleep(self.rng.choice((0.05, 0.5, 1.5, TTL + 1.5)) * (0.5 + self.rng.random() / 2))
        worker.peer.thaw()
        worker.process.stopped.append((began, time.monotonic() + SETTLE))
        self._window(worker, began)

    def _restart(self) -> None:
        worker, began = self._pick(), time.monotonic()
        worker.finish()
        worker.peer.close()
        self.workers.remove(worker)
        self._window(worker, began)
        self.add(worker.segment)

    def _master(self) -> None:
        began = time.monotonic()
        self.master.kill()
        time.sleep(self.rng.random() * 0.5)
        self.master.restart()
        self._window(None, began)

    def end(self) -> None:
        for worker in self.workers:
            if worker.peer.alive():
                worker.peer.thaw()
                worker.peer.kill()
            worker.peer.close()
        if self.master.alive():
            self.master.kill()


def run(plan: Plan, keep: pathlib.Path | None = None) -> Outcome:
    """One run, checked. `keep`: a folder for the journals of a run that found something."""
    scratch = Scratch()
    try:
        one = _Run(plan, scratch)
        try:
            one.go()
            metrics = one.master.metrics()
        finally:
            one.end()
        outcome = judge(one, metrics)
        if outcome.problems and keep is not None:
            _keep(one, keep, outcome)
        return outcome
    finally:
        scratch.close()


def judge(one: _Run, metrics: dict) -> Outcome:
    history = History()
    history.load(one.processes, time.monotonic())
    windows = windows_joined(one.windows)
    rules = Rules(evicts=one.plan.small, lease=LEASE / 2, lossy=windows, hiding=windows, pinned=frozenset(history.pinned))
    problems, widest = one.problems + history.wrong, 0
    for key, operations in sorted(history.operations.items()):
        try:
            widest = max(widest, check(operations, rules, key))
        except (Violation, TooHard) as found:
            problems.append(str(found))
    count = sum(map(len, history.operations.values()))
    return Outcome(one.plan, count, dict(history.codes), one.told, metrics, problems, widest)


def _keep(one: _Run, folder: pathlib.Path, outcome: Outcome) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in one.scratch.path.iterdir():
        if path.is_file() and (path.name.startswith("journal") or path.suffix == ".log"):
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "outcome.txt").write_text(f"{outcome}\nwindows {windows_joined(one.windows)}\n")
