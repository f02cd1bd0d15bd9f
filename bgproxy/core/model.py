"""The nouns everybody shares: colours, addresses, upstreams, pool tables. Values only."""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Colour(IntEnum):
    """One of the two pools; the value is the lowest bit of the live word."""

    BLUE = 0
    GREEN = 1

    @property
    def label(self) -> str:
        return self.name.lower()

    @property
    def other(self) -> Colour:
        return Colour(1 - self)

    @classmethod
    def named(cls, text: str) -> Colour:
        """The colour called `text`; ValueError says what was expected."""
        for colour in cls:
            if colour.label == text:
                return colour
        raise ValueError(f"{text!r} is not a colour: expected 'blue' or 'green'")


BLUE, GREEN = Colour.BLUE, Colour.GREEN
COLOURS = (BLUE, GREEN)


class Address(msgspec.Struct, frozen=True):
    """Where to listen or connect: `host:port`, `[v6]:port`, `unix:/path`, or `https://host:port` for an upstream.

    `path` is set for unix sockets only, `server_name` for TLS only: the name that the certificate must be for.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    server_name: str = ""

    @property
    def is_unix(self) -> bool:
        return bool(self.path)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        authority = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"https://{authority}" if self.server_name else authority


def parse_address(text: str, *, port_zero: bool = False) -> Address:
    """Read an address; ValueError says what is wrong and what was expected. Port 0 only where one can be chosen."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"{text!r}: a unix socket needs an absolute path, like 'unix:/run/app.sock'")
        if len(path.encode()) > 107:
            raise ValueError(f"{text!r}: a unix socket path holds at most 107 bytes, this one has {len(path.encode())}")
        return Address(path=path)
    if "://" in text:
        scheme = text.partition("://")[0]
        raise ValueError(
            f"{text!r}: {scheme}:// is not supported here; expected 'host:port', '[v6]:port' or 'unix:/path'"
        )
    host, colon, port_text = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r}: the port is missing; expected 'host:port', '[v6]:port' or 'unix:/path'")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address is written in brackets, like '[::1]:8080'")
    if not host:
        raise ValueError(
            f"{text!r}: the host is missing; expected 'host:port', for every interface '0.0.0.0:{port_text}'"
        )
    if any(c.isspace() or c in "/?#@" for c in host):
        raise ValueError(f"{text!r}: {host!r} is not a host name or address")
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5):
        raise ValueError(f"{text!r}: {port_text!r} is not a port number")
    port = int(port_text)
    if port > 65535 or (port == 0 and not port_zero):
        raise ValueError(f"{text!r}: the port must be between {0 if port_zero else 1} and 65535")
    return Address(host=host, port=port)


def parse_upstream(text: str) -> Address:
    """The address of an upstream, which may be a URL without a path; ValueError as in `parse_address`.

    `http://` is another spelling of the plain address. The server name of `https://` is its host.
    """
    scheme, there, authority = text.partition("://")
    default_port = _DEFAULT_PORTS.get(scheme.lower()) if there else None
    if default_port is None:
        return parse_address(text)
    authority = authority.removesuffix("/")
    for mark, part in (("/", "a path"), ("?", "a query"), ("#", "a fragment"), ("@", "a user name")):
        if mark in authority:
            raise ValueError(
                f"{text!r}: {part} cannot be part of an upstream, every request brings its own target; "
                f"expected '{scheme}://host:port'"
            )
    has_port = ":" in authority.rpartition("]")[2]
    address = parse_address(authority if has_port or not authority else f"{authority}:{default_port}")
    if scheme.lower() == "http":
        return address
    # A certificate knows neither the dot at the end of a host name nor the interface of an address.
    server_name = address.host.partition("%")[0].removesuffix(".") or address.host
    return Address(address.host, address.port, server_name=server_name)


_DEFAULT_PORTS = {"https": 443, "http": 80}


class Upstream(msgspec.Struct, frozen=True):
    """One server address of a pool. `index` is its row in the health board and in every worker slot, for as long as it
    is in the table. `drained`: no request goes there, by the operator's word."""

    id: str
    index: int
    address: Address
    weight: int = 1
    drained: bool = False


class Pool(msgspec.Struct, frozen=True):
    """The upstreams of one colour and how requests are spread over them (`least-requests` or `round-robin`)."""

    upstreams: tuple[Upstream, ...]
    balance: str = "least-requests"
    release: str = ""


class PoolTable(msgspec.Struct, frozen=True):
    """Both pools, as one versioned value that workers acknowledge as a whole."""

    version: int
    blue: Pool
    green: Pool

    def pool(self, colour: int) -> Pool:
        return self.green if colour else self.blue

    @property
    def over_tls(self) -> bool:
        """Is any upstream reached over TLS?"""
        return any(upstream.address.server_name for pool in (self.blue, self.green) for upstream in pool.upstreams)
