"""The configuration that engines share: a JSON file or environment variables, as one dataclass.

    config = MooncakeConfig.load_from_env()      # MOONCAKE_CONFIG_PATH, or MOONCAKE_MASTER and its relatives
    config = MooncakeConfig.from_file("mooncake.json")
"""

import json
import os
import re
from dataclasses import dataclass
from typing import Any, Mapping, Union

__all__ = ["DEFAULT_GLOBAL_SEGMENT_SIZE", "DEFAULT_LOCAL_BUFFER_SIZE", "MooncakeConfig", "parse_bool", "parse_size"]

DEFAULT_GLOBAL_SEGMENT_SIZE = 3355443200
DEFAULT_LOCAL_BUFFER_SIZE = 1073741824
DEFAULT_CLIENT_HTTP_PORT = 9300

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS[_letter] = _UNITS[_letter + "b"] = 1024**_power
_SIZE = re.compile(r"((?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?)\s*([a-z]*)")


def parse_size(value: Union[int, float, str]) -> int:
    """Bytes of 1024, "1024", "4gb", "1.5 GB"; units are 1024-based. ValueError for anything else."""
    if isinstance(value, bool):
        raise ValueError(f"not a size: {value!r}")
    if isinstance(value, (int, float)):
        if not 0 <= value < 2**64:
            raise ValueError(f"not a size: {value!r}")
        return int(value)
    match = _SIZE.fullmatch(str(value).strip().lower())
    if match is None or match.group(2) not in _UNITS:
        raise ValueError(f"not a size: {value!r} (like 1073741824, 512MB or 1.5 GB)")
    number, factor = match.group(1), _UNITS[match.group(2)]
    size = int(number) * factor if number.isdigit() else float(number) * factor
    if size >= 2**64:
        raise ValueError(f"not a size: {value!r} (over 16 EiB)")
    return int(size)


# The original's name, which other packages import.
_parse_segment_size = parse_size

_TRUE = {"true", "1", "yes", "on", "enable", "enabled", "t", "y"}
_FALSE = {"false", "0", "no", "off", "disable", "disabled", "f", "n", ""}


def parse_bool(value: Union[bool, int, str, None]) -> bool:
    """True and False in the usual spellings. ValueError for anything else."""
    text = str(value).strip().lower() if value is not None else ""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"neither true nor false: {value!r}")


_parse_bool = parse_bool


def _port(value: Any) -> int:
    try:
        port = int(value)
    except (TypeError, ValueError):
        port = -1
    if isinstance(value, bool) or not 0 <= port <= 65535:
        raise ValueError(f"not a port: {value!r}")
    return port


def _text(values: Mapping[str, Any], name: str, default: str) -> str:
    """Of an optional field: null is as good as none."""
    value = values.get(name)
    return default if value is None else str(value)


@dataclass
class MooncakeConfig:
    local_hostname: str
    metadata_server: str
    global_segment_size: int
    local_buffer_size: int
    protocol: str
    device_name: str
    master_server_address: str
    enable_ssd_offload: bool = False
    ssd_offload_path: str = ""
    tenant_id: str = "default"
    enable_client_http_server: bool = False
    client_http_port: int = DEFAULT_CLIENT_HTTP_PORT

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MooncakeConfig":
        for name in ("local_hostname", "metadata_server", "master_server_address"):
            if values.get(name) is None:
                raise ValueError(f"Missing required config field: {name}")
        return cls(
            local_hostname=str(values["local_hostname"]),
            metadata_server=str(values["metadata_server"]),
            global_segment_size=parse_size(values.get("global_segment_size", DEFAULT_GLOBAL_SEGMENT_SIZE)),
            local_buffer_size=parse_size(values.get("local_buffer_size", DEFAULT_LOCAL_BUFFER_SIZE)),
            protocol=_text(values, "protocol", "tcp").lower(),
            device_name=_text(values, "device_name", ""),
            master_server_address=str(values["master_server_address"]),
            enable_ssd_offload=parse_bool(values.get("enable_ssd_offload", False)),
            ssd_offload_path=_text(values, "ssd_offload_path", ""),
            tenant_id=_text(values, "tenant_id", "default"),
            enable_client_http_server=parse_bool(values.get("enable_client_http_server", False)),
            client_http_port=_port(values.get("client_http_port", DEFAULT_CLIENT_HTTP_PORT)),
        )

    @classmethod
    def from_file(cls, file_path: str) -> "MooncakeConfig":
        """From a JSON object. ValueError names what is missing or wrong."""
        with open(file_path, encoding="utf-8") as file:
            try:
                values = json.load(file)
            except ValueError as error:
                raise ValueError(f"{file_path}: not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{file_path}: not a JSON object")
        return cls.from_dict(values)

    @classmethod
    def load_from_env(cls) -> "MooncakeConfig":
        """From the file MOONCAKE_CONFIG_PATH when that is set, else from MOONCAKE_MASTER (required) and the variables below."""
        path = os.getenv("MOONCAKE_CONFIG_PATH")
        if path:
            return cls.from_file(path)
        if not os.getenv("MOONCAKE_MASTER"):
            raise ValueError("Neither the environment variable 'MOONCAKE_CONFIG_PATH' nor 'MOONCAKE_MASTER' is set.")
        names = {
            "master_server_address": "MOONCAKE_MASTER",
            "local_hostname": "MOONCAKE_LOCAL_HOSTNAME",
            "metadata_server": "MOONCAKE_TE_META_DATA_SERVER",
            "global_segment_size": "MOONCAKE_GLOBAL_SEGMENT_SIZE",
            "local_buffer_size": "MOONCAKE_LOCAL_BUFFER_SIZE",
            "protocol": "MOONCAKE_PROTOCOL",
            "device_name": "MOONCAKE_DEVICE",
            "enable_ssd_offload": "MOONCAKE_OFFLOAD_ENABLED",
            "ssd_offload_path": "MOONCAKE_OFFLOAD_FILE_STORAGE_PATH",
            "tenant_id": "MOONCAKE_TENANT_ID",
            "enable_client_http_server": "MOONCAKE_ENABLE_CLIENT_HTTP_SERVER",
            "client_http_port": "MOONCAKE_CLIENT_HTTP_PORT",
        }
        values = {"local_hostname": "localhost", "metadata_server": "P2PHANDSHAKE"}
        values.update({field: os.environ[name] for field, name in names.items() if name in os.environ})
        return cls.from_dict(values)
