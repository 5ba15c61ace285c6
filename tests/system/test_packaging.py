"""What is installed beside the programs: units and sample files, held to the programs they are for."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest

from tests.support.daemons import ClientDaemon
from tests.support.processes import ROOT, Master, find_build_dir

UNITS = sorted((ROOT / "packaging" / "systemd").glob("*.service"))
CONFIG = ROOT / "packaging" / "config"


class Unit(configparser.ConfigParser):
    optionxform = staticmethod(str)


def read(path):
    unit = Unit(strict=False, interpolation=None)
    unit.read(path)
    return unit


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_start_what_there_is_and_stop_it_in_time(path):
    unit = read(path)
    assert set(unit.sections()) == {"Unit", "Service", "Install"}
    program, *flags = shlex.split(unit["Service"]["ExecStart"])
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert program in scripts, "the wheel has it, too"
    assert int(unit["Service"]["TimeoutStopSec"]) > 5 and unit["Service"]["Restart"] == "on-failure"
    if program.startswith("mooncake_") and program != "mooncake_http_metadata_server":
        binary = find_build_dir() / program.removeprefix("mooncake_") / program
        text = subprocess.run([binary, "--help"], capture_output=True, text=True, timeout=30).stdout
    else:
        module = scripts[program].partition(":")[0]
        text = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=30,
                              env={"PYTHONPATH": str(find_build_dir() / "python")}).stdout
    for flag in flags:
        name = re.match(r"--[\w-]+", flag)
        assert name is None or name[0] in text, flag


def test_systemd_takes_them(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    for path in UNITS:
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", re.sub(r"^User=.*\n", "", path.read_text(), flags=re.M), flags=re.M)
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", *(str(tmp_path / path.name) for path in UNITS)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Unknown" not in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["master.yaml", "master.json"])
def test_the_masters_sample(name, scratch):
    master = Master(scratch, f"--config_path={CONFIG / name}")
    try:
        assert "warning" not in master.log().lower() and "no such setting" not in master.log()
    finally:
        assert master.stop() == 0


def test_the_samples_of_the_master_say_the_same():
    yaml = dict(re.findall(r"^(\w+): ([^#\n]*\S)", (CONFIG / "master.yaml").read_text(), re.M))
    assert {key: str(value).lower() for key, value in json.loads((CONFIG / "master.json").read_text()).items()} == \
        {key: str(float(value)) if "ratio" in key else value.lower() for key, value in yaml.items()}


def test_the_clients_sample(master, scratch):
    daemon = ClientDaemon(scratch, master.address, f"--config_path={CONFIG / 'client.yaml'}")
    assert daemon.stop() == 0
    assert "no such" not in daemon.log()


def test_the_engines_sample():
    pytest.importorskip("mooncake.mooncake_config")
    from mooncake.mooncake_config import MooncakeConfig

    config = MooncakeConfig.from_file(str(CONFIG / "mooncake.json"))
    assert (config.global_segment_size, config.local_buffer_size, config.metadata_server) == (1 << 30, 512 << 20, "P2PHANDSHAKE")


def test_they_are_installed(tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("no cmake here")
    for component in ("service", "client", "master"):
        subprocess.run(["cmake", "--install", str(find_build_dir()), "--prefix", str(tmp_path), "--component", component], check=True, capture_output=True,
                       timeout=60)
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {f"lib/systemd/system/{path.name}" for path in UNITS} | {f"share/mooncake/{path.name}" for path in CONFIG.iterdir()} <= there
    assert {"bin/mooncake_master", "bin/mooncake_client"} <= there


@pytest.mark.parametrize("image, files", [("master", ["master/mooncake_master"]),
                                          ("client", ["master/mooncake_master", "client/mooncake_client", "python/mooncake/store.abi3.so"])])
def test_an_image_has_the_libraries_of_its_programs(image, files):
    if shutil.which("readelf") is None or shutil.which("dpkg-query") is None:
        pytest.skip("no readelf, or no Debian")
    last_stage = (ROOT / "docker" / f"Dockerfile.{image}").read_text().rpartition("\nFROM ")[2]
    needed = set()
    for file in files:
        text = subprocess.run(["readelf", "-d", str(find_build_dir() / file)], capture_output=True, text=True, check=True, timeout=60).stdout
        needed |= set(re.findall(r"\(NEEDED\).*\[(.+)\]", text))
    owners = subprocess.run(["dpkg-query", "-S", *(f"*/{library}" for library in sorted(needed))], capture_output=True, text=True, timeout=60).stdout
    for library in needed:
        packages = set(re.findall(rf"^([\w.+-]+)(?::\w+)?: .*/{re.escape(library)}$", owners, re.M))
        if packages and not packages & {"libc6", "libgcc-s1"}:
            assert any(re.search(rf"(?<![\w.+-]){re.escape(p)}(?![\w.+-])", last_stage) for p in packages), f"{library}: {packages}"
