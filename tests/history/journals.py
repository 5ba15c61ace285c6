"""From the workers' journals to operations on each key."""

import collections
import dataclasses
import json
import pathlib

from tests.history import values
from tests.history.checker import LEASED, MISSING, NONE, OK, UNKNOWN, Operation

TRANSFER_TIMEOUT = 1  # of the workers' transfers, in seconds
AFTERLIFE = 8.0  # how long after its caller failed or died an operation may still take effect: the sessions' TTL and a good deal more
NO_EFFECT = {-200, -600}  # what refuses a write before anything was changed


@dataclasses.dataclass
class Process:
    """What the driver knows of one worker."""
    writer: int
    name: str
    journal: pathlib.Path
    died: float | None = None
    stopped: list = dataclasses.field(default_factory=list)  # (from, to): what it fails to read then says nothing


class History:
    def __init__(self):
        self.operations: dict[str, list[Operation]] = collections.defaultdict(list)
        self.pinned: set = set()
        self.wrong: list[str] = []
        self.codes: collections.Counter = collections.Counter()
        self.now = 0.0
        self._short: dict[tuple[str, str], set] = collections.defaultdict(set)  # ids of the short values of a key, by their bytes
        self._reads_of_short: list[tuple[Operation, str, str]] = []

    def load(self, processes: list[Process], now: float) -> None:
        self.now = now
        for process in processes:
            self._load_one(process)
        for operation, key, data in self._reads_of_short:
            operation.values = frozenset(self._short[key, data])
            if not operation.values:
                self.wrong.append(f"{operation.who} read {data} of {key}, which nobody wrote, at {operation.begin:.6f}")

    def _load_one(self, process: Process) -> None:
        begun: dict[int, dict] = {}
        text = process.journal.read_text() if process.journal.exists() else ""
        for line in text.splitlines():
            entry = json.loads(line)
            if "wrong" in entry:
                self.wrong.append(f"{process.name}: {entry['wrong']} at {entry['at']:.6f}")
            elif "what" in entry:
                begun[entry["id"]] = entry
            elif "results" in entry:
                call = begun.pop(entry["id"])
                assert len(entry["results"]) == len(call["keys"]), (call, entry)
                for n, result in enumerate(entry["results"]):
                    self._add(process, call, n, result, entry["at"])
        for call in begun.values():
            for n in range(len(call["keys"])):
                self._add(process, call, n, None, process.died or self.now)

    def _add(self, process: Process, call: dict, n: int, result, at: float) -> None:
        what, key = call["what"], call["keys"][n]
        operation = Operation(process.name, what, call["at"], at)
        if what in ("put", "upsert", "put_batch", "upsert_batch"):
            self._write(operation, process, call, n, result)
        elif what == "remove":
            operation.outcome = {0: OK, -704: MISSING, -706: LEASED, -703: NONE}.get(result, UNKNOWN)
        elif what == "bulk":
            operation.what = "remove"
            operation.outcome = {0: OK, "none": NONE}.get(result, UNKNOWN)
        elif what == "is_exist":
            operation.what = "exist"
            operation.outcome = {1: OK, 0: MISSING}.get(result, NONE)
        else:
            self._read(operation, key, process, result)
        shown = result if isinstance(result, (int, str)) or result is None else result[1] if result[0] == "failed" else result[0]
        self.codes[what, shown] += 1
        if operation.outcome == UNKNOWN and result != "some":
            operation.end += AFTERLIFE
        missed = operation.outcome == MISSING and operation.what in ("read", "exist")
        if missed and any(a <= operation.end and operation.begin <= b for a, b in process.stopped):
            operation.outcome = NONE
        self.operations[key].append(operation)

    def _write(self, operation: Operation, process: Process, call: dict, n: int, result) -> None:
        operation.what = call["what"].removesuffix("_batch")
        operation.value = f"{process.writer}.{call['values'][n]}"
        if call["hard"]:
            self.pinned.add(operation.value)
        size = call["sizes"][n]
        if size < 24:
            self._short[call["keys"][n], values.make(process.writer, call["values"][n], size).hex()].add(operation.value)
        if result == 0:
            operation.outcome = OK
        else:
            operation.outcome = NONE if result in NO_EFFECT and not call["what"].endswith("_batch") else UNKNOWN

    def _read(self, operation: Operation, key: str, process: Process, result) -> None:
        operation.what = "read"
        kind, detail = result if result is not None else ("failed", None)
        if kind == "value":
            operation.values = frozenset([f"{detail[0]}.{detail[1]}"])
        elif kind == "short":
            self._reads_of_short.append((operation, key, detail))
        elif kind == "missing":
            # b"" does not say why. A transfer that no fault explains may still time out on a busy machine; a miss takes no time.
            timed_out = detail is None and operation.end - operation.begin >= 0.9 * TRANSFER_TIMEOUT
            operation.outcome = NONE if timed_out else MISSING
        else:
            operation.outcome = NONE
            if kind == "wrong":
                self.wrong.append(f"{process.name} read {detail} of {key} at {operation.begin:.6f}-{operation.end:.6f}")
