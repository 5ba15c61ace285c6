"""The master's admin HTTP server, as the commands ask it. Standard library only."""

import http.client
import json
import re
import socket
import urllib.parse

from .cli_text import FAILED, NOT_FOUND, NOT_SUPPORTED, UNREACHABLE, Failure

ANSWER_MAX = 1 << 30


def parse_address(text, default_port):
    """(host, port) of "host", "host:port", "[v6]:port"; http:// may stand before it."""
    try:
        parts = urllib.parse.urlsplit(text if "//" in text else "//" + text)
        if not parts.hostname or parts.scheme not in ("", "http") or parts.path.strip("/"):
            raise ValueError
        return parts.hostname, parts.port if parts.port is not None else default_port
    except ValueError:
        raise Failure(f"{text}: not HOST:PORT") from None


class Metrics:
    """Prometheus text. sample("name") is the sum over all labels; labels("name") gives ({label: value}, number)."""

    LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([-+.eE\dInfNa]+)$")
    LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text):
        self._samples = {}
        for line in text.splitlines():
            match = self.LINE.match(line)
            if match and not line.startswith("#"):
                labels = {name: re.sub(r"\\(.)", r"\1", value) for name, value in self.LABEL.findall(match[2] or "")}
                self._samples.setdefault(match[1], []).append((labels, float(match[3])))

    def sample(self, name, default=0.0):
        found = self._samples.get(name)
        return sum(value for _, value in found) if found else default

    def labels(self, name):
        return self._samples.get(name, [])

    def __contains__(self, name):
        return name in self._samples


class Admin:
    """Each call is one request on a connection of its own. Raises Failure: 3 when nobody answers, 4 and 5 for 404."""

    def __init__(self, address, timeout=10.0):
        self.host, self.port = parse_address(address, 9003)
        self.timeout = timeout

    @property
    def url(self):
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def _unreachable(self, error):
        if isinstance(error, (socket.timeout, TimeoutError)):
            why = f"no answer within {self.timeout:g} s"
        elif isinstance(error, http.client.HTTPException):
            why = "what answers there speaks no HTTP"
        else:
            why = getattr(error, "strerror", None) or str(error)
        return Failure(
            f"no master at {self.url}: {why}\n"
            "  Is mooncake_master running? Its admin server listens at --metrics_port (9003).\n"
            "  Another place: --admin HOST:PORT, or the variable MOONCAKE_ADMIN.",
            UNREACHABLE,
        )

    def _request(self, method, path, query=None, body=None):
        target = path + ("?" + urllib.parse.urlencode(query, quote_via=urllib.parse.quote) if query else "")
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, target, body, headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from None

    def ask(self, method, path, query=None, body=None):
        """(status, bytes)"""
        connection, response = self._request(method, path, query, body)
        try:
            return response.status, response.read(ANSWER_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def text(self, path, query=None):
        status, body = self.ask("GET", path, query)
        if status != 200:
            raise self._refusal("GET", path, status, body)
        return body.decode(errors="replace")

    def json(self, path, query=None, method="GET", body=None):
        """The answer's object, of a success."""
        data = json.dumps(body).encode() if body is not None else None
        status, answer = self.ask(method, path, query, data)
        try:
            value = json.loads(answer)
        except ValueError:
            value = None
        if status != 200 or not isinstance(value, dict) or value.get("success") is False:
            raise self._refusal(method, path, status, answer, value)
        return value

    def _refusal(self, method, path, status, answer, value=None):
        if isinstance(value, dict) and ("error_message" in value or "error" in value):
            text = value.get("error_message") or value.get("error")
            code = value.get("error_code")
            return Failure(f"{text} ({code})" if code is not None else str(text), NOT_FOUND if status == 404 else FAILED)
        if status in (404, 405, 501):
            return Failure(f"the master at {self.url} has no {method} {path}: it is of a version without this", NOT_SUPPORTED)
        return Failure(f"{method} {path} at {self.url}: HTTP {status}: {answer[:200].decode(errors='replace').strip()}")

    def lines(self, path):
        """The lines of a long listing, as they come."""
        connection, response = self._request("GET", path)
        try:
            if response.status != 200:
                raise self._refusal("GET", path, response.status, response.read(1000))
            for line in response:
                yield line.rstrip(b"\n").decode(errors="surrogateescape")
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def metrics(self):
        return Metrics(self.text("/metrics"))
