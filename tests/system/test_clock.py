"""The wall clock jumps: nothing that was promised depends on it, and a master that starts under an earlier one is accepted by its clients."""

import pytest

from tests.support.processes import find_build_dir
from tests.support.waiting import holds_for, wait_until

YEAR = 365 * 86400


class WallClock:
    """Of the processes that are started with `env` or behind `prefix`."""

    def __init__(self, folder):
        library = find_build_dir() / "tests" / "libwall_clock.so"
        if not library.exists():
            pytest.skip("libwall_clock.so is not built")
        self._file = folder / "wall-clock"
        self.env = {"LD_PRELOAD": str(library), "MCS_TEST_WALL_CLOCK": str(self._file)}
        self.prefix = ["env", *(f"{key}={value}" for key, value in self.env.items())]
        self.jump(0)

    def jump(self, seconds: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self._file)


@pytest.fixture
def clock(tmp_path):
    return WallClock(tmp_path)


def put_and_get(peer, names):
    for n, name in enumerate(names):
        assert peer.call("put", name, bytes([n + 1]) * 10_000) == 0
        assert peer.call("get", name) == bytes([n + 1]) * 10_000


@pytest.mark.parametrize("jump", [10 * YEAR, -10 * YEAR, 3600], ids=["years on", "years back", "an hour on"])
def test_a_jump_of_the_wall_clock_changes_nothing(jump, clock, start_master, start_peer):
    master = start_master("--client_ttl=2", prefix=clock.prefix)
    holder = start_peer("holder", env=clock.env).setup(master)
    writer = start_peer("writer", env=clock.env).setup(master, segment=0)
    put_and_get(writer, ["before", "leased"])
    assert writer.call("is_exist", "leased") == 1
    clock.jump(jump)
    code = writer.call("remove", "leased")
    assert code in (-706, 0), code  # 0: a machine so busy that the half second is over
    wait_until(lambda: writer.call("remove", "leased") == (0 if code else -704), "the lease ends as if nothing had been", 10)
    put_and_get(writer, ["after"])
    holds_for(lambda: master.segments() == [holder.hostname()] and holder.call("health_check") == 0, "nobody is dropped", 3)
    assert writer.call("get", "before") == b"\1" * 10_000


@pytest.mark.parametrize("journal", [False, True], ids=["without a journal", "with a journal"])
@pytest.mark.parametrize("jump", [-YEAR // 2, YEAR], ids=["back", "on"])
def test_a_master_restarted_under_another_wall_clock_is_accepted(jump, journal, clock, start_master, start_peer, scratch):
    flags = [f"--journal_dir={scratch.folder('journal')}"] if journal else []
    master = start_master(*flags, prefix=clock.prefix)
    holder = start_peer("holder").setup(master)
    writer = start_peer("writer").setup(master, segment=0)
    put_and_get(writer, ["before"])
    for seconds in (jump, 0):  # and back
        master.kill()
        clock.jump(seconds)
        master.restart()
        wait_until(lambda: writer.call("put", f"after{seconds}", b"x" * 1000) == 0, "puts work again", 30)
        assert holder.call("get", f"after{seconds}") == b"x" * 1000
        assert writer.call("get", "before") == (b"\1" * 10_000 if journal else b"")
