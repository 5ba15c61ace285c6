"""The master's admin HTTP server, as the commands ask it. Standard library only."""

import http.client
import json
import os
import re
import socket
import ssl
import urllib.parse

from .cli_text import FAILED, NOT_FOUND, NOT_SUPPORTED, UNREACHABLE, Failure

ANSWER_MAX = 1 << 30


def _parse(text, default_port, schemes):
    try:
        parts = urllib.parse.urlsplit(text if "//" in text else "//" + text)
        if not parts.hostname or parts.scheme not in schemes or parts.path.strip("/") or parts.username is not None:
            raise ValueError
        return parts.scheme, parts.hostname, parts.port if parts.port is not None else default_port
    except ValueError:
        raise Failure(f"{text}: not HOST:PORT") from None


def parse_address(text, default_port):
    """(host, port) of "host", "host:port", "[v6]:port"; http:// may stand before it."""
    return _parse(text, default_port, ("", "http"))[1:]


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
    """Each call is one request on a connection of its own. Raises Failure: 3 when nobody answers, 4 and 5 for 404.

    The token comes from MC_STORE_ADMIN_TOKEN, where the master has it from, too; https:// trusts what the system trusts, and the file of
    MOONCAKE_ADMIN_CA."""

    def __init__(self, address, timeout=10.0):
        scheme, self.host, self.port = _parse(address, 9003, ("", "http", "https"))
        self.scheme = scheme or "http"
        self.timeout = timeout
        self._token = os.environ.get("MC_STORE_ADMIN_TOKEN", "").strip() or None
        if self._token is not None and not self._token.isprintable():
            raise Failure("MC_STORE_ADMIN_TOKEN: no token: it has characters that cannot be sent")
        self._tls = None
        if self.scheme == "https":
            authority = os.environ.get("MOONCAKE_ADMIN_CA") or None
            try:
                self._tls = ssl.create_default_context(cafile=authority)
            except (OSError, ssl.SSLError) as error:
                raise Failure(f"MOONCAKE_ADMIN_CA: {authority}: {getattr(error, 'strerror', None) or error}") from None

    @property
    def url(self):
        return f"{self.scheme}://[{self.host}]:{self.port}" if ":" in self.host else f"{self.scheme}://{self.host}:{self.port}"

    def _connect(self):
        if self._tls is not None:
            return http.client.HTTPSConnection(self.host, self.port, timeout=self.timeout, context=self._tls)
        return http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)

    def _unreachable(self, error):
        if isinstance(error, (socket.timeout, TimeoutError)):
            why = f"no answer within {self.timeout:g} s"
        elif isinstance(error, ssl.SSLCertVerificationError):
            return Failure(f"{self.url}: its certificate is not trusted: {error.verify_message}\n"
                           "  Name the authority's PEM file: MOONCAKE_ADMIN_CA=FILE", UNREACHABLE)
        elif isinstance(error, ssl.SSLError):
            why = f"no TLS there ({error.reason or error}): is it http:// ?"
        elif isinstance(error, http.client.HTTPException):
            why = "what answers there speaks no HTTP" + ("" if self._tls is not None else " (is it https:// ?)")
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
        connection = self._connect()
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            if self._token is not None:
                headers["Authorization"] = f"Bearer {self._token}".encode()
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
        if status == 401:
            return Failure(f"{self.url} wants {'another' if self._token else 'a'} token: set MC_STORE_ADMIN_TOKEN to the master's admin_token")
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
