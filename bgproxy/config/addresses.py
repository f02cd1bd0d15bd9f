"""Kinds of values that name a place in the network."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Hashable

from bgproxy.config.kinds import Kind
from bgproxy.config.problems import Wrong
from bgproxy.core.model import Address, parse_address, parse_upstream

_HOST = re.compile(r"(?!-)[A-Za-z0-9._-]{1,253}")


def address(*, port_zero: bool = False, tcp_only: str = "", empty: bool = False) -> Kind:
    """`tcp_only` says what to use instead of a unix socket; `empty` lets "" stand for no address (None)."""
    forms = ['"host:port"', '"[v6]:port"', "" if tcp_only else '"unix:/path"', '""' if empty else ""]
    expected = " or ".join(form for form in forms if form)

    def refine(value: str) -> Address | None:
        if empty and not value:
            return None
        if value.startswith("http://"):
            bare = value.removeprefix("http://").rstrip("/")
            raise Wrong(f"{value!r} is a URL", suggestion="" if "/" in bare else f'"{bare}"')
        parsed = parse_address(value, port_zero=port_zero)
        if parsed.is_unix and tcp_only:
            raise Wrong(f"{value!r} is a unix socket", expected=f"{expected}; {tcp_only}")
        if not parsed.is_unix:
            _check_host(value, parsed.host)
        return parsed

    return Kind(str, expected, refine)


def upstream() -> Kind:
    """An address, or a URL without a path: `https://` is TLS."""

    def refine(value: str) -> Address:
        parsed = parse_upstream(value)
        if not parsed.is_unix:
            _check_host(value, parsed.host)
        if parsed.server_name:
            _check_server_name(parsed.server_name)
        return parsed

    return Kind(str, '"host:port", "[v6]:port", "https://host:port" or "unix:/path"', refine)


def server_name() -> Kind:
    """The name that a certificate must be for; "" takes it from somewhere else."""

    def refine(value: str) -> str:
        name = value.rstrip(".")
        if name:
            _check_host(value, name)
            _check_server_name(name)
        elif value:
            raise Wrong(f"{value!r} is not a host name or address")
        return name

    return Kind(str, 'a host name or address without a port, or ""', refine)


def _check_server_name(name: str) -> None:
    """By the library that will be told it: it is stricter than DNS (no label over 63 characters, none empty)."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)
    except ValueError:  # UnicodeError is one
        raise Wrong(
            f"{name!r} cannot be the name of a TLS server", expected="labels of 1 to 63 characters between dots"
        ) from None


def _check_host(value: str, host: str) -> None:
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise Wrong(f"{value!r}: {host!r} is not an IPv6 address") from None
    elif re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise Wrong(f"{value!r}: {host!r} is not an IPv4 address") from None
    elif not _HOST.fullmatch(host):
        raise Wrong(f"{value!r}: {host!r} is not a host name or address")


def same_address(one: Address) -> Hashable:
    """Equal for two spellings of one address. Port 0 is a new port each time, so it equals nothing (None)."""
    if one.is_unix:
        return one.path
    if not one.port:
        return None
    host = str(ipaddress.IPv6Address(one.host)) if ":" in one.host else one.host.lower().rstrip(".")
    return host, one.port


def network(*words: str) -> Kind:
    """A network, in its canonical spelling; `words` stand for themselves."""

    def refine(value: str) -> str:
        if value in words:
            return value
        try:
            return str(_unmapped(ipaddress.ip_network(value)))
        except ValueError:
            pass
        try:
            suggestion = f'"{ipaddress.ip_network(value, strict=False)}"'
        except ValueError:
            raise Wrong(f"{value!r} is not a network") from None
        raise Wrong(f"{value!r} has bits set beyond its prefix", suggestion=suggestion)

    expected = ('a network in CIDR form, like "10.0.0.0/8"', *(f'"{word}"' for word in words))
    return Kind(str, ", or ".join(expected), refine)


def _unmapped(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """::ffff:10.0.0.0/104 is 10.0.0.0/8: peers are looked at by their IPv4 addresses wherever they have one."""
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        address = network.network_address.ipv4_mapped
        if address is not None:
            return ipaddress.IPv4Network((address, network.prefixlen - 96))
    return network
