"""The checker of the history test: histories made by hand, good ones and bad ones."""

import math
import random
import time

import pytest

from tests.history import values
from tests.history.checker import LEASED, MISSING, NONE, OK, UNKNOWN, Operation, Rules, Violation, check, windows_joined
from tests.history.journals import History, Process

CALM = Rules()
EVICTING = Rules(evicts=True)


def op(what, begin, end, value=None, outcome=OK, who="p"):
    """read(…) of a value or of a tuple of them; None is a miss."""
    if what == "read":
        seen = value if isinstance(value, tuple) else () if value is None else (value,)
        return Operation(who, "read", begin, end, OK if seen else MISSING, values=frozenset(seen))
    if what == "exist":
        return Operation(who, "exist", begin, end, OK if value else MISSING)
    return Operation(who, what, begin, end, outcome, value=value)


GOOD = {
    "nothing": (CALM, []),
    "a miss, a put, a read": (CALM, [op("read", 0, 1), op("put", 2, 3, "a"), op("read", 4, 5, "a"), op("exist", 6, 7, True)]),
    "a read beside a put sees it or not": (CALM, [op("put", 0, 9, "a"), op("read", 1, 2), op("read", 3, 4, "a")]),
    "a second put does nothing": (CALM, [op("put", 0, 1, "a"), op("put", 2, 3, "b"), op("read", 4, 5, "a")]),
    "two puts at once: one of them": (CALM, [op("put", 0, 5, "a"), op("put", 0, 5, "b"), op("read", 6, 7, "b"), op("read", 8, 9, "b")]),
    "an upsert replaces": (CALM, [op("put", 0, 1, "a"), op("upsert", 2, 3, "b"), op("read", 4, 5, "b")]),
    "old, then new, beside an upsert": (CALM, [op("put", 0, 1, "a"), op("upsert", 2, 9, "b"), op("read", 3, 4, "a"), op("read", 5, 6, "b")]),
    "overtaken upsert": (CALM, [op("upsert", 0, 9, "a"), op("upsert", 1, 8, "b"), op("read", 10, 11, "b")]),
    "a remove, a put again": (CALM, [op("put", 0, 1, "a"), op("remove", 2, 3), op("read", 4, 5), op("put", 6, 7, "b"), op("read", 8, 9, "b")]),
    "a leased remove does nothing": (CALM, [op("put", 0, 1, "a"), op("remove", 2, 3, outcome=LEASED), op("read", 4, 5, "a")]),
    "a failed put has happened": (CALM, [op("put", 0, 9, "a", UNKNOWN), op("read", 3, 4), op("read", 5, 6, "a")]),
    "a failed put has not happened": (CALM, [op("put", 0, 9, "a", UNKNOWN), op("read", 10, 11), op("put", 12, 13, "b"), op("read", 14, 15, "b")]),
    "a failed remove, either way": (CALM, [op("put", 0, 1, "a"), op("remove", 2, 20, outcome=UNKNOWN), op("read", 3, 4, "a"), op("read", 5, 6)]),
    "eviction": (EVICTING, [op("put", 0, 1, "a"), op("read", 2, 3, "a"), op("read", 4, 5), op("remove", 6, 7, outcome=MISSING)]),
    "eviction after a lease": (Rules(evicts=True, lease=5.0), [op("put", 0, 1, "a"), op("read", 2, 3, "a"), op("read", 8, 9)]),
    "eviction after the lease of an exist": (Rules(evicts=True, lease=5.0), [op("put", 0, 1, "a"), op("exist", 2, 3, True), op("read", 8, 9)]),
    "eviction of another value than the one that existed": (
        Rules(evicts=True, lease=5.0), [op("put", 0, 1, "a"), op("exist", 2, 5, True), op("upsert", 3, 4, "b"), op("read", 6, 6.5)]),
    "removal under the lease of an exist": (
        Rules(evicts=True, lease=5.0), [op("put", 0, 1, "a"), op("exist", 2, 3, True), op("remove", 4, 5), op("read", 6, 6.5)]),
    "a bulk removal that took some": (CALM, [op("put", 0, 1, "a"), op("remove", 2, 3, outcome=UNKNOWN), op("read", 4, 5)]),
    "loss in a window": (Rules(lossy=[(3, 5)]), [op("put", 0, 1, "a"), op("read", 8, 9), op("put", 10, 11, "b"), op("read", 12, 13, "b")]),
    "a put whose value is lost in a window that closes before it returns": (Rules(lossy=[(3, 5)]), [op("put", 2, 7, "a"), op("read", 8, 9)]),
    "hidden and back": (Rules(hiding=[(3, 5)]), [op("put", 0, 1, "a"), op("read", 3.5, 4), op("exist", 4, 4.5, False), op("read", 6, 7, "a")]),
    "a put over a hidden value": (Rules(hiding=[(3, 5)]), [op("put", 0, 1, "a"), op("put", 3.5, 4, "b"), op("read", 6, 7, "b")]),
    "small values that are alike": (CALM, [op("put", 0, 1, "a"), op("read", 2, 3, ("a", "z")), op("upsert", 4, 5, "z"), op("read", 6, 7, ("a", "z"))]),
    "what had no effect is not looked at": (CALM, [op("put", 0, 1, "a", NONE), op("read", 2, 3)]),
    "an operation without an end": (CALM, [op("upsert", 0, math.inf, "a", UNKNOWN), op("put", 1, 2, "b"), op("read", 3, 4, "b"), op("read", 5, 6, "a")]),
}

BAD = {
    "a value nobody wrote": (EVICTING, [op("read", 0, 1, "a")]),
    "a read before the write began": (EVICTING, [op("read", 0, 1, "a"), op("put", 2, 3, "a")]),
    "stale read after an overwrite": (EVICTING, [op("put", 0, 1, "a"), op("upsert", 2, 3, "b"), op("read", 4, 5, "a")]),
    "old after new, across processes": (EVICTING, [op("put", 0, 1, "a"), op("upsert", 2, 9, "b"), op("read", 3, 4, "b", who="q"), op("read", 5, 6, "a", who="r")]),
    "a removed value is back": (EVICTING, [op("put", 0, 1, "a"), op("remove", 2, 3), op("read", 4, 5, "a")]),
    "a removed value exists": (CALM, [op("put", 0, 1, "a"), op("remove", 2, 3), op("exist", 4, 5, True)]),
    "removed while hidden, and back": (Rules(hiding=[(0, 99)], lossy=[(0, 99)]),
                                       [op("put", 0, 1, "a"), op("remove", 2, 3, outcome=MISSING), op("read", 4, 5, "a")]),
    "an evicted value is back": (EVICTING, [op("put", 0, 1, "a"), op("read", 2, 3), op("read", 4, 5, "a")]),
    "a lost value is back after the window": (Rules(lossy=[(2, 5)], hiding=[(2, 5)]), [op("put", 0, 1, "a"), op("read", 7, 8), op("read", 9, 10, "a")]),
    "lost update": (CALM, [op("put", 0, 1, "a"), op("upsert", 2, 3, "b"), op("read", 4, 5)]),
    "lost put": (CALM, [op("put", 0, 1, "a"), op("exist", 2, 3, False)]),
    "a miss in the middle of an upsert": (CALM, [op("put", 0, 1, "a"), op("upsert", 2, 9, "b"), op("read", 3, 4), op("read", 10, 11, "b")]),
    "a put that replaces": (CALM, [op("put", 0, 1, "a"), op("put", 2, 3, "b"), op("read", 4, 5, "b")]),
    "a put that said 0 and did nothing": (CALM, [op("put", 0, 1, "a"), op("remove", 2, 3), op("put", 4, 5, "b"), op("read", 6, 7)]),
    "two values from two puts": (CALM, [op("put", 0, 5, "a"), op("put", 0, 5, "b"), op("read", 6, 7, "b"), op("read", 8, 9, "a")]),
    "one value, removed twice": (CALM, [op("put", 0, 1, "a"), op("remove", 2, 9), op("remove", 3, 8)]),
    "a pinned value is evicted": (Rules(evicts=True, pinned=frozenset("a")), [op("put", 0, 1, "a"), op("read", 2, 3)]),
    "a leased value is evicted": (Rules(evicts=True, lease=5.0), [op("put", 0, 1, "a"), op("read", 2, 3, "a"), op("read", 4, 5)]),
    "evicted under the lease of an exist": (Rules(evicts=True, lease=5.0), [op("put", 0, 1, "a"), op("exist", 2, 3, True), op("read", 4, 5)]),
    "evicted under the lease of an exist that began before an upsert ended": (
        Rules(evicts=True, lease=5.0),
        [op("put", 0, 1, "a"), op("upsert", 1.5, 3, "b"), op("read", 2, 2.1, "b"), op("exist", 2.5, 3.5, True), op("read", 6, 6.5)]),
    "a bulk removal takes effect after its end": (CALM, [op("put", 0, 1, "a"), op("remove", 2, 3, outcome=UNKNOWN), op("read", 4, 5, "a"), op("read", 6, 7)]),
    "lost outside the windows": (Rules(lossy=[(3, 5)]), [op("put", 6, 7, "a"), op("read", 8, 9)]),
    "hidden outside the windows": (Rules(hiding=[(3, 5)]), [op("put", 0, 1, "a"), op("read", 6, 7)]),
    "a failed upsert twice": (EVICTING, [op("upsert", 0, 50, "a", UNKNOWN), op("read", 2, 3, "a"), op("remove", 4, 5), op("read", 6, 7, "a")]),
    "a failed write after its end": (EVICTING, [op("upsert", 0, 3, "a", UNKNOWN), op("upsert", 4, 5, "b"), op("read", 6, 7, "b"), op("read", 8, 9, "a")]),
}


@pytest.mark.parametrize("name", GOOD)
def test_explained(name):
    rules, operations = GOOD[name]
    check(operations, rules)


@pytest.mark.parametrize("name", BAD)
def test_caught(name):
    rules, operations = BAD[name]
    with pytest.raises(Violation) as caught:
        check(operations, rules, "the key")
    assert "the key" in str(caught.value)


def simulated(seed, count, clients=6):
    """A history of a register that is right, from calls that overlap: each takes effect at a random moment between its beginning and end."""
    rng = random.Random(seed)
    moments = []  # (when it takes effect, operation)
    for client in range(clients):
        at = rng.random()
        for n in range(count):
            begin, end = at, at + rng.expovariate(1)
            at = end + rng.random() * 0.5
            what = rng.choice(("put", "upsert", "read", "read", "remove"))
            moments.append((rng.uniform(begin, end), Operation(f"c{client}", what, begin, end, value=f"{client}.{n}")))
    state = None
    for when, operation in sorted(moments, key=lambda m: m[0]):
        if operation.what == "read":
            operation.values = frozenset() if state is None else frozenset([state])
            operation.outcome = MISSING if state is None else OK
        elif operation.what == "remove":
            operation.outcome = MISSING if state is None else OK
            state = None
        else:
            if rng.random() < 0.02:
                operation.outcome, operation.end = UNKNOWN, operation.end + 10
                if rng.random() < 0.5:
                    continue
            if operation.what == "upsert" or state is None:
                state = operation.value
    return [operation for _, operation in moments]


@pytest.mark.parametrize("seed", range(8))
def test_right_histories_of_many_overlapping_calls_are_explained(seed):
    check(simulated(seed, 150), CALM)


@pytest.mark.parametrize("seed", range(8))
def test_one_wrong_read_among_many_is_caught(seed):
    operations = simulated(seed, 150)
    rng = random.Random(seed)
    reads = [o for o in operations if o.what == "read" and o.outcome == OK and o.begin > 20]
    victim = rng.choice(reads)
    old = [o for o in operations if o.what == "upsert" and o.end < victim.begin - 15 and o.outcome == OK]
    victim.values = frozenset([rng.choice(old).value])
    with pytest.raises(Violation):
        check(operations, EVICTING)


def test_many_operations_of_unknown_outcome_do_not_blow_up():
    operations = [op("upsert", n, 1000, f"u{n}", UNKNOWN) for n in range(30)]
    operations += [op("read", 100 + n, 100 + n, f"u{n}") for n in range(30)]
    began = time.monotonic()
    check(operations, EVICTING)
    assert time.monotonic() - began < 60


def test_windows_are_joined():
    assert windows_joined([(5, 7), (1, 3), (2, 4)]) == [(1, 4), (5, 7)]


# ---- values ----

@pytest.mark.parametrize("size", [24, 25, 4096, 300_000, 3 << 20])
def test_a_value_says_whose_it_is_and_any_wrong_byte_shows(size):
    value = values.make(7, 9, size)
    assert len(value) == size and values.read(value) == ("value", [7, 9])
    for at in {0, 5, 12, 23, size // 2, size - 1}:
        torn = bytearray(value)
        torn[at] ^= 1
        assert values.read(torn)[0] == "wrong", at
    assert values.read(value[:-1])[0] == ("wrong" if size > 24 else "short")
    if size > 24:
        other = values.make(7, 10, size)
        assert values.read(value[:size // 2] + other[size // 2:])[0] == "wrong", "half of each"


def test_short_values_are_told_by_their_bytes():
    assert values.read(values.make(1, 2, 5)) == ("short", values.make(1, 2, 5).hex())
    assert values.make(1, 2, 5) != values.make(1, 3, 5)
    assert values.read(b"")[0] == "wrong"


# ---- journals ----

def loaded(tmp_path, lines, died=None, stopped=()):
    path = tmp_path / "journal"
    path.write_text("\n".join(lines) + "\n")
    history = History()
    history.load([Process(3, "p3", path, died, list(stopped))], now=99.0)
    return history


def test_a_call_that_never_returned_may_have_happened(tmp_path):
    history = loaded(tmp_path, ['{"id":2,"at":1,"what":"put","keys":["k"],"values":[1],"sizes":[50],"hard":true}'], died=5.0)
    operation, = history.operations["k"]
    assert operation.outcome == UNKNOWN and operation.end > 5 and operation.value == "3.1" and history.pinned == {"3.1"}


def test_wrong_bytes_are_wrong_whatever_else(tmp_path):
    history = loaded(tmp_path, ['{"id":1,"at":1,"what":"get","keys":["k"]}', '{"id":1,"at":2,"results":[["wrong","all of it"]]}',
                                '{"wrong":"a view changed","at":3}', '{"id":2,"at":4,"what":"get","keys":["k"]}',
                                '{"id":2,"at":5,"results":[["short","aa"]]}'])
    assert len(history.wrong) == 3


def test_codes_become_outcomes(tmp_path):
    lines = []
    for n, (what, code) in enumerate([("remove", 0), ("remove", -704), ("remove", -706), ("remove", -703), ("remove", -901), ("is_exist", 1), ("is_exist", 0),
                                      ("is_exist", -900)]):
        lines += [f'{{"id":{n},"at":{n},"what":"{what}","keys":["k"]}}', f'{{"id":{n},"at":{n}.5,"results":[{code}]}}']
    history = loaded(tmp_path, lines, stopped=[(6.1, 6.2)])
    assert [o.outcome for o in history.operations["k"]] == [OK, MISSING, LEASED, NONE, UNKNOWN, OK, NONE, NONE]


def test_an_empty_read_that_took_a_transfers_timeout_is_no_miss(tmp_path):
    lines = []
    for n, (seconds, result) in enumerate([(0.1, '["missing",null]'), (1.5, '["missing",null]'), (1.5, '["missing",-704]')]):
        lines += [f'{{"id":{n},"at":{n * 10},"what":"get","keys":["k"]}}', f'{{"id":{n},"at":{n * 10 + seconds},"results":[{result}]}}']
    history = loaded(tmp_path, lines)
    assert [o.outcome for o in history.operations["k"]] == [MISSING, NONE, MISSING]
