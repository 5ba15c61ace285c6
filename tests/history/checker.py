"""Is there one order of the operations on a key that explains what every process saw?

A search in the manner of Wing, Gong and Lowe, one key at a time ("just in time linearization"): the events (beginnings and ends of operations) are
walked in the order of their times while the set of all *configurations* that are still possible is kept: the key's state (a value's id, or None: no
such key), and which of the operations under way have taken effect. An operation that ends must have taken effect in a configuration, or the
configuration is dropped; before that, everything under way may take effect, in any order. No configuration left: a violation.

Between events the state may change by itself only so:
  - present -> None by loss, while a window of `Rules.lossy` is open (an owner killed, stopped or restarted, the master restarted);
  - present -> None by eviction when `Rules.evicts`, unless the value is hard-pinned or a reader has a lease on it. What is sure of leases is used: who
    read the value in an operation that began at t holds one to t + `Rules.lease` (give half the master's TTL: a read within half the lease
    of an earlier one does not renew it), and so does who was told that it exists, when only one value can have been there: exist and then get
    inside the lease never misses.
In a window of `Rules.hiding` (suspicion) a read may miss a value that stays, and a put may replace it.

What the operations mean (`what`, `outcome`):
  put     ok: makes the value, or does nothing when there is one     upsert  ok: makes the value, whatever there was
  remove  ok: ends a value that is there; missing: there is none (what is hidden is struck all the same); leased: there is one
  read    one of `values` (small values can be alike), or missing    exist   ok: there is a value; missing: there is none
  unknown (put, upsert, remove): took effect once between its beginning and its end, or never. The driver gives it an end: Rules.afterlife after its
  call failed or its process died. `none`: had certainly no effect, and is not looked at.

What this proves: for each key, the history is linearizable with respect to that register. So a read never returns what was removed, overwritten, lost
or evicted before it began, nor, across processes, an old value after a new one was seen; nothing is lost without a reason. What it does not:
order between keys, anything of values nobody looked at again, and of misses and losses while a window is open. Bytes are the readers' matter:
they compare every byte with the value's pattern, and a wrong one is a violation before any search.
"""

import collections
import dataclasses
import math

MISSING = "missing"
OK = "ok"
LEASED = "leased"
UNKNOWN = "unknown"
NONE = "none"


@dataclasses.dataclass(eq=False, slots=True)
class Operation:
    who: str
    what: str  # put upsert remove read exist
    begin: float
    end: float
    outcome: str = OK
    value: object = None  # of put and upsert
    values: frozenset = frozenset()  # that a read may have seen
    hidden: bool = False  # a suspicion may have hidden the value; set by check()

    def __str__(self):
        seen = {"put": self.value, "upsert": self.value, "read": "/".join(map(str, sorted(self.values, key=str)))}.get(self.what) or ""
        end = "…" if math.isinf(self.end) else f"{self.end:.6f}"
        return f"{self.begin:.6f}-{end} {self.who} {self.what} {seen} {self.outcome}{' (may be hidden)' if self.hidden else ''}"


@dataclasses.dataclass
class Rules:
    evicts: bool = False
    lease: float = 0.0
    lossy: list = dataclasses.field(default_factory=list)  # (from, to)
    hiding: list = dataclasses.field(default_factory=list)
    pinned: frozenset = frozenset()  # hard-pinned values


class Violation(Exception):
    """Names the operation that nothing explains, and what went on around it."""


class TooHard(Exception):
    """The search grew past its limit: nothing is said about this key. A failure of the test, not of the product."""


LIMIT = 200_000  # configurations looked at for one event


def check(operations: list[Operation], rules: Rules, key: str = "?") -> int:
    """Raises Violation. The largest number of configurations that were possible at one time."""
    operations = [o for o in operations if o.outcome != NONE]
    for operation in operations:
        operation.hidden = any(begin <= operation.end and operation.begin <= end for begin, end in rules.hiding)
    return _Search(operations, rules, key).run()


_BEGIN, _OPEN, _CLOSE, _END = range(4)  # at equal times everything begins before anything ends: more is allowed, never less


class _Search:
    def __init__(self, operations, rules, key):
        self.rules, self.key = rules, key
        events = [(o.begin, _BEGIN, n, o) for n, o in enumerate(operations)]
        events += [(o.end, _END, n, o) for n, o in enumerate(operations)]
        events += [(b, _OPEN, n, None) for n, (b, _) in enumerate(rules.lossy)]
        events += [(e, _CLOSE, n, None) for n, (_, e) in enumerate(rules.lossy)]
        self.events = sorted(events, key=lambda e: e[:3])
        self.operations = operations
        self.pending: dict[int, Operation] = {}
        self.configurations = {(None, frozenset())}
        self.windows = 0
        self.leases: dict[object, float] = {}
        self.existed: dict[int, set] = collections.defaultdict(set)  # of an exist under way: the values that it can have been about
        self.now = 0.0

    def run(self) -> int:
        largest = 1
        for self.now, kind, number, operation in self.events:
            if kind == _BEGIN:
                self.pending[number] = operation
            elif kind == _OPEN:
                self._expand(None)  # what happens before the window happens without it
                self.windows += 1
            elif kind == _CLOSE:
                self._expand(None)
                self.windows -= 1
            elif operation.outcome == UNKNOWN:
                self._expand(None)
                self.configurations = _without_the_worse({(state, done - {number}) for state, done in self.configurations}, self.pending)
                del self.pending[number]
            else:
                before = self.configurations
                self._note_lease(operation)
                self._expand(number)
                if self._note_existence(number, operation):
                    self.configurations = before  # once more, knowing what cannot have been evicted since
                    self._expand(number)
                if not self.configurations:
                    raise Violation(self._report(operation, before))
                del self.pending[number]
            largest = max(largest, len(self.configurations))
        return largest

    def _note_lease(self, operation) -> None:
        if operation.what == "read" and len(operation.values) == 1 and operation.outcome == OK:
            value, = operation.values
            self.leases[value] = max(self.leases.get(value, 0.0), operation.begin + self.rules.lease)

    def _note_existence(self, number, operation) -> bool:
        values = self.existed.pop(number, ())
        if operation.what != "exist" or operation.outcome != OK or len(values) != 1:
            return False
        value, = values
        self.leases[value] = max(self.leases.get(value, 0.0), operation.begin + self.rules.lease)
        return True

    def _may_vanish(self, value) -> bool:
        if self.windows:
            return True
        return self.rules.evicts and value not in self.rules.pinned and self.leases.get(value, 0.0) < self.now

    def _expand(self, wanted) -> None:
        """All that can be by now. With a number: in which that operation has taken effect, and nothing else that could as well wait."""
        found, seen, looked_at = set(), _Best(self.pending), 0
        queue = collections.deque(self.configurations)  # those of which fewer operations were needed come first
        while queue:
            state, done = queue.popleft()
            done = self._what_costs_nothing(state, done)
            if not seen.add(state, done):
                continue
            looked_at += 1
            if looked_at > LIMIT:
                raise TooHard(f"key {self.key}: more than {LIMIT} configurations at {self.now:.6f}")
            if state is not None and self._may_vanish(state):
                queue.append((None, done))
            if wanted is None:
                found.add((state, done))
            elif wanted in done:
                found.add((state, done - {wanted}))
                continue
            for number, operation in self.pending.items():
                if number not in done:
                    queue.extend((after, done | {number}) for after in _effects(operation, state))
        self.configurations = _without_the_worse(found, self.pending)

    def _what_costs_nothing(self, state, done):
        """Whatever changes nothing and is true now may as well be now: what can follow is the same."""
        more = [n for n, o in self.pending.items() if n not in done and o.what in ("read", "exist") and state in _effects(o, state)]
        for number in more:
            self.existed[number].add(state)
        return done.union(more) if more else done

    def _report(self, culprit, before) -> str:
        about = {culprit.value, *culprit.values, *(state for state, _ in before)} - {None}
        near = [o for o in self.operations if o.begin <= self.now and (o.end >= culprit.begin - 0.05 or o.value in about or o.values & about)]
        lines = [f"key {self.key}: nothing explains", f"    {culprit}",
                 f"  possible before its end: {', '.join(sorted({str(state) for state, _ in before}))}; evicts {self.rules.evicts}, "
                 f"windows open {self.windows}, pinned {sorted(map(str, about & self.rules.pinned))}", "  what was there and near:"]
        near.sort(key=lambda o: o.begin)
        return "\n".join(lines + [f"    {'>' if o is culprit else ' '} {o}" for o in near[-60:]])


def _effects(operation, state):
    """The states after it, when it takes effect in this one."""
    what, outcome, hidden = operation.what, operation.outcome, operation.hidden
    if what == "put":
        if state is None:
            return (operation.value,)
        kept = (state,) if outcome == OK else ()
        return (*kept, operation.value) if hidden else kept
    if what == "upsert":
        return (operation.value,)
    if what == "remove":
        if outcome == MISSING:
            return (None,) if state is None or hidden else ()
        if outcome == LEASED:
            return (state,) if state is not None else ()
        return (None,) if state is not None else ()
    if outcome == MISSING:
        return (state,) if state is None or hidden else ()
    if what == "exist":
        return (state,) if state is not None else ()
    return (state,) if state in operation.values else ()


class _Best:
    """Configurations, without those that can do nothing that another of the same state cannot: operations of unknown outcome need never take effect,
    so having them still to come is never worse."""

    def __init__(self, pending):
        self._optional = frozenset(n for n, o in pending.items() if o.outcome == UNKNOWN)
        self._groups: dict[tuple, list[frozenset]] = {}

    def add(self, state, done) -> bool:
        """False when it is one of those."""
        spent = done & self._optional
        others = self._groups.setdefault((state, done - self._optional), [])
        if any(other <= spent for other in others):
            return False
        others[:] = [other for other in others if not spent <= other]
        others.append(spent)
        return True

    def all(self) -> set:
        return {(state, must | spent) for (state, must), some in self._groups.items() for spent in some}


def _without_the_worse(configurations, pending) -> set:
    if len(configurations) < 2:
        return configurations
    best = _Best(pending)
    for state, done in configurations:
        best.add(state, done)
    return best.all()


def windows_joined(windows: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Overlapping ones made one."""
    joined: list[tuple[float, float]] = []
    for begin, end in sorted(windows):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined
