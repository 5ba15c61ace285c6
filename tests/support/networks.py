"""Network namespaces, joined pairwise by veth links: processes in them have nothing in common but the cables (and the file system)."""

import itertools
import os
import pathlib
import shutil
import subprocess

from tests.support.waiting import wait_until

_numbers = itertools.count(1)


def why_not() -> str | None:
    """Why there can be no namespaces here; None when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "no ip command (package iproute2)"
    probe = f"mcsp{os.getpid()}"
    try:
        _ip("netns", "add", probe)
        _ip("-n", probe, "link", "add", "name", "va", "type", "veth", "peer", "name", "vb")
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return None


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], capture_output=True, text=True, check=True)


class Network:
    """A namespace with its loopback up."""

    def __init__(self):
        self.name = f"mcs{os.getpid()}n{next(_numbers)}"
        self.addresses: dict[str, str] = {}  # by the other's name
        self._devices: dict[str, str] = {}
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")

    @property
    def prefix(self) -> list[str]:
        """Before a command line: runs it inside."""
        return ["ip", "netns", "exec", self.name]

    def join(self, other: "Network") -> None:
        """A cable between the two, with an address at each end."""
        number = next(_numbers)
        mine, theirs = f"v{number}a", f"v{number}b"
        _ip("-n", self.name, "link", "add", "name", mine, "type", "veth", "peer", "name", theirs, "netns", other.name)
        for network, peer, device, end in ((self, other, mine, 1), (other, self, theirs, 2)):
            address = f"10.{number // 250 + 77}.{number % 250}.{end}"
            _ip("-n", network.name, "addr", "add", f"{address}/24", "dev", device)
            _ip("-n", network.name, "link", "set", device, "up")
            network.addresses[peer.name] = address
            network._devices[peer.name] = device
        for network, device in ((self, mine), (other, theirs)):
            wait_until(lambda network=network, device=device: network._is_up(device), f"{device} is up")

    def _is_up(self, device: str) -> bool:
        done = subprocess.run(["ip", "-n", self.name, "link", "show", "dev", device], capture_output=True, text=True, check=True)
        return "state UP" in done.stdout

    def address_for(self, other: "Network") -> str:
        """This one's address on the cable to the other."""
        return self.addresses[other.name]

    def cut(self, other: "Network") -> None:
        """Pulls the cable out: nobody is told, packets are lost."""
        _ip("-n", self.name, "link", "set", self._devices[other.name], "down")

    def mend(self, other: "Network") -> None:
        _ip("-n", self.name, "link", "set", self._devices[other.name], "up")
        wait_until(lambda: self._is_up(self._devices[other.name]), "the cable is up")

    def bytes_received(self, other: "Network") -> int:
        """By this one on the cable from the other, as the kernel counts."""
        device = self._devices[other.name]
        done = subprocess.run([*self.prefix, "cat", "/proc/net/dev"], capture_output=True, text=True, check=True)
        line = next(line for line in done.stdout.splitlines() if line.strip().startswith(device + ":"))
        return int(line.partition(":")[2].split()[0])

    def close(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)
        pathlib.Path(f"/run/netns/{self.name}").unlink(missing_ok=True)
