"""Two network namespaces joined by a veth cable: no loopback, no shared memory, nothing in common but the cable. Needs root and the ip command."""

import os
import shutil
import subprocess
import time


class Network:
    def __init__(self, name: str, address: str):
        self.name, self.address = name, address

    @property
    def prefix(self) -> list[str]:
        """Before a command line: runs it inside."""
        return ["ip", "netns", "exec", self.name]


class Cable:
    """A pair of networks: cable[0], cable[1]. Raises OSError with a reason when there can be none."""

    def __init__(self):
        if os.geteuid() != 0:
            raise OSError("network namespaces need root")
        if shutil.which("ip") is None:
            raise OSError("no ip command (Debian package iproute2)")
        tag = f"mcsb{os.getpid()}"
        self._made: list[str] = []
        self._pair = [Network(f"{tag}{side}", f"10.91.7.{side + 1}") for side in (0, 1)]
        try:
            for network in self._pair:
                self._ip("netns", "add", network.name)
                self._made.append(network.name)
                self._ip("-n", network.name, "link", "set", "lo", "up")
            self._ip("-n", self._pair[0].name, "link", "add", "name", "va", "type", "veth", "peer", "name", "vb", "netns", self._pair[1].name)
            for network, device in self._ends():
                self._ip("-n", network.name, "addr", "add", f"{network.address}/24", "dev", device)
                self._ip("-n", network.name, "link", "set", device, "up")
            self._wait_up()
        except subprocess.CalledProcessError as error:
            self.close()
            raise OSError(f"no network namespaces here: {error.stderr.strip()}") from None

    @staticmethod
    def _ip(*args: str) -> str:
        return subprocess.run(["ip", *args], capture_output=True, text=True, check=True).stdout

    def _wait_up(self) -> None:
        """Both ends: one may be up up to a second before the other."""
        ends = time.monotonic() + 5
        while not all("state UP" in self._ip("-n", network.name, "link", "show", "dev", device) for network, device in self._ends()) \
                and time.monotonic() < ends:
            time.sleep(0.02)

    def _ends(self) -> zip:
        return zip(self._pair, ("va", "vb"), strict=True)

    def __getitem__(self, side: int) -> Network:
        return self._pair[side]

    def close(self) -> None:
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
