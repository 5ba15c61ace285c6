"""A guard against figures that are too good: what a row claims to have moved over TCP must have passed the interface.

The kernel counts the bytes of each interface of a network namespace; a read that came from a cache, from another path or from the object of an earlier
row leaves the counter behind. Others may use the same interface, so only too few bytes convict.
"""

from pathlib import Path

# A payload byte passes once; headers only add. Counters of veth and lo are exact, the rest is for the last packets in flight.
NEEDED = 0.98


def parse(text: str) -> dict[str, int]:
    """/proc/net/dev -> bytes by interface: both directions, but on the loopback, where each byte is sent and received by the same one."""
    counts = {}
    for line in text.splitlines():
        name, colon, fields = line.partition(":")
        numbers = fields.split()
        if colon and len(numbers) >= 9:
            counts[name.strip()] = int(numbers[0]) + (0 if name.strip() == "lo" else int(numbers[8]))
    return counts


def passed(pid: int | str = "self") -> int:
    """Bytes that have passed the interfaces of the process's network namespace so far."""
    return sum(parse(Path(f"/proc/{pid}/net/dev").read_text()).values())


def verdict(path: str, claimed: int, counted: int) -> str:
    """"" when the figure may stand, else why not. `path`: "tcp" or another one, which the interface need not see."""
    if path != "tcp" or counted >= NEEDED * claimed:
        return ""
    return f"claims {claimed} bytes over TCP, the interface counted {counted}"
