"""PROXY protocol, versions 1 and 2: with what a proxy in front begins a connection to say whose it is.

HAProxy's proxy-protocol.txt. One header, before TLS and HTTP. Anything that is not exactly one is refused: what comes
behind it would otherwise be read as somebody's request.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple, TypeAlias

# Of version 2 with everything it may carry; version 1 ends at 107 bytes. Known extensions take a few hundred.
LONGEST = 4096
_LONGEST_V1 = 107
_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEAD = len(_V2) + 4  # with version, command, family and length

# Numbers without leading zeros: nobody may read one as octal.
_PORT = r"(0|[1-9][0-9]{0,4})"
_TCP = re.compile(rf"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) {_PORT} {_PORT}\r\n".encode())
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\n]*)?\r\n")

_LOCAL, _PROXY = 0x20, 0x21  # version 2, and the command
_TCP4, _TCP6, _UNIX = 0x11, 0x21, 0x31
# Bytes of the address block. Datagrams are valid and mean nothing here, so they are read as "unspecified" is.
_ADDRESS_BYTES = {0x00: 0, _TCP4: 12, 0x12: 12, _TCP6: 36, 0x22: 36, _UNIX: 216, 0x32: 216}
_TLV_CRC32C = 0x03


class Introduction(NamedTuple):
    """A whole header of `length` bytes. `is_local`: the proxy speaks for itself, as health checks do, and no address
    counts. Else `source` is the client's address and `destination` the host:port it asked, both b"" where unsaid."""

    length: int
    is_local: bool = False
    source: bytes = b""
    destination: bytes = b""


class BadIntroduction:
    """Not a header, whatever may follow; `detail` says why."""

    __slots__ = ("detail",)

    def __init__(self, detail: str) -> None:
        self.detail = detail


ReadIntroduction: TypeAlias = Introduction | BadIntroduction | None


def read(data: bytes) -> ReadIntroduction:
    """`data` is all that has come, with or without what follows the header. None: no whole header yet, but all of
    `data` is part of one."""
    if data.startswith(_V1):
        return _read_v1(data)
    if data.startswith(_V2):
        return _read_v2(data)
    if _V1.startswith(data) or _V2.startswith(data):
        return None
    return BadIntroduction("it does not begin with a PROXY header")


# --- version 1: a line of text ---------------------------------------------------------------------------------------


def _read_v1(data: bytes) -> ReadIntroduction:
    end = data.find(b"\n", 0, _LONGEST_V1) + 1
    if not end:
        return None if len(data) < _LONGEST_V1 else BadIntroduction(f"no line end within {_LONGEST_V1} bytes")
    line = data[:end]
    if _UNKNOWN.fullmatch(line):
        return Introduction(end)
    match = _TCP.fullmatch(line)
    if match is None:
        return BadIntroduction("the line is not 'PROXY TCP4|TCP6|UNKNOWN source destination port port'")
    try:
        kind = ipaddress.IPv4Address if match[1] == b"4" else ipaddress.IPv6Address
        source, destination = kind(match[2].decode()), kind(match[3].decode())
    except ValueError:
        return BadIntroduction("an address is not of the family that the line names")
    ports = int(match[4]), int(match[5])
    if max(ports) > 0xFFFF:
        return BadIntroduction("a port is above 65535")
    return _introduction(end, source, destination, ports[1])


def _introduction(length: int, source: _IPAddress, destination: _IPAddress, port: int) -> Introduction:
    host = _unmapped(destination)
    return Introduction(
        length,
        source=str(_unmapped(source)).encode(),
        destination=(f"{host}:{port}" if host.version == 4 else f"[{host}]:{port}").encode(),
    )


_IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def _unmapped(address: _IPAddress) -> _IPAddress:
    """An IPv4 address that a dual-stack socket has put into IPv6 is the IPv4 address that networks are written for."""
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


# --- version 2: binary -----------------------------------------------------------------------------------------------


def _read_v2(data: bytes) -> ReadIntroduction:
    if len(data) < _V2_HEAD:
        return None
    command, family = data[12], data[13]
    end = _V2_HEAD + int.from_bytes(data[14:16], "big")
    if command not in (_LOCAL, _PROXY):
        return BadIntroduction("neither LOCAL nor PROXY of version 2")
    if end > LONGEST:
        return BadIntroduction(f"the header is longer than {LONGEST} bytes")
    address_bytes = _ADDRESS_BYTES.get(family)
    if command == _PROXY:
        if address_bytes is None:
            return BadIntroduction("an address family or a transport that does not exist")
        if _V2_HEAD + address_bytes > end:
            return BadIntroduction("the header is too short for its addresses")
    if len(data) < end:
        return None
    if command == _LOCAL or not address_bytes:  # whatever else it says is to be skipped
        return Introduction(end, is_local=command == _LOCAL)
    if not _are_sound(data[:end], _V2_HEAD + address_bytes):
        return BadIntroduction("an extension is cut short, or the checksum is wrong")
    block = data[_V2_HEAD : _V2_HEAD + address_bytes]
    if family == _TCP4:
        v4 = ipaddress.IPv4Address(block[:4]), ipaddress.IPv4Address(block[4:8])
        return _introduction(end, *v4, int.from_bytes(block[10:12], "big"))
    if family == _TCP6:
        v6 = ipaddress.IPv6Address(block[:16]), ipaddress.IPv6Address(block[16:32])
        return _introduction(end, *v6, int.from_bytes(block[34:36], "big"))
    return Introduction(end)


def _are_sound(header: bytes, at: int) -> bool:
    """Do the extensions (type, two bytes of length, value) fill the header exactly, and agree with its checksum?"""
    while at < len(header):
        start = at + 3
        at = start + int.from_bytes(header[at + 1 : start], "big")
        if start > len(header) or at > len(header):
            return False
        if header[start - 3] == _TLV_CRC32C:
            given = header[start:at]
            if len(given) != 4 or crc32c(header[:start] + bytes(4) + header[at:]) != int.from_bytes(given, "big"):
                return False
    return True


def _crc32c_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C = tuple(map(_crc32c_of_byte, range(256)))


def crc32c(data: bytes) -> int:
    """RFC 9260 appendix A. Once per connection at most, and only over a header that carries one."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
