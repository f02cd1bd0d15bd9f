"""PROXY headers as a sender writes them, by the letter of HAProxy's proxy-protocol.txt."""

from __future__ import annotations

import ipaddress
import struct

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6, UNIX = 0x11, 0x21, 0x31
_of_one_family = ("203.0.113.1", "2001:db8::1")


def v1(source: str, destination: str = "", source_port: int = 4711, destination_port: int = 80) -> bytes:
    destination = destination or _of_one_family[":" in source]
    kind = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {kind} {source} {destination} {source_port} {destination_port}\r\n".encode()


def v2(
    source: str = "192.0.2.7",
    destination: str = "",
    source_port: int = 4711,
    destination_port: int = 80,
    extensions: bytes = b"",
    *,
    command: int = PROXY,
    family: int | None = None,
    block: bytes | None = None,
) -> bytes:
    """`family` and `block` in place of what the addresses would make."""
    destination = destination or _of_one_family[":" in source]
    ends = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if family is None:
        family = TCP4 if ends[0].version == 4 else TCP6
    if block is None:
        block = ends[0].packed + ends[1].packed + struct.pack(">HH", source_port, destination_port)
    block += extensions
    return SIGNATURE + struct.pack(">BBH", command, family, len(block)) + block


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


CRC32C = tlv(3, bytes(4))  # of a header that `checksummed` will complete


def checksummed(header: bytes) -> bytes:
    """With the first empty checksum filled in, bit by bit and not by a table."""
    crc = 0xFFFFFFFF
    for byte in header:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return header.replace(CRC32C, tlv(3, struct.pack(">I", crc ^ 0xFFFFFFFF)), 1)
