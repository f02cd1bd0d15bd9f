"""The [tls] section: what its keys mean together, and whether the files that it names can be used."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from bgproxy.config.addresses import address, same_address
from bgproxy.config.certificates import PairFiles, Tls, load_certificates, warnings_about
from bgproxy.config.kinds import choice, duration, number_or, text, true_or_false
from bgproxy.config.nodes import ListOf, Section
from bgproxy.config.problems import Problems
from bgproxy.core.model import Address


class PairEntry(msgspec.Struct, frozen=True, kw_only=True):
    cert: str
    key: str


class TlsSection(msgspec.Struct, frozen=True, kw_only=True):
    listen: tuple[Address, ...] = ()
    certificates: tuple[PairEntry, ...] = ()
    min_version: Literal["1.2", "1.3"] = "1.2"
    redirect_http: bool = False
    redirect_port: int = 0  # 0 is "auto"
    hsts: float = 0.0
    client_auth: Literal["off", "optional", "required"] = "off"
    client_ca: str = ""


_PATH = text("the path of a file in PEM", r"[^\0-\x1f]{1,4096}")

SECTION = Section(
    TlsSection,
    {
        "listen": ListOf(address(port_zero=True), at_most=64, identity=same_address),
        "certificates": ListOf(
            Section(PairEntry, {"cert": _PATH, "key": _PATH}), at_most=100, identity=lambda pair: (pair.cert, pair.key)
        ),
        "min_version": choice("1.2", "1.3", gone={"1.0": "which is broken", "1.1": "which is broken"}),
        "redirect_http": true_or_false(),
        "redirect_port": number_or("auto", 1, 65_535, 0),
        "hsts": duration("0s", "3650d"),
        "client_auth": choice("off", "optional", "required"),
        "client_ca": text('the path of a file in PEM, or ""', r"[^\0-\x1f]{0,4096}"),
    },
)


def resolve_tls(
    section: TlsSection, plain: tuple[Address, ...], problems: Problems, absolute: Callable[[str, str], Path]
) -> tuple[Tls, tuple[str, ...]]:
    """The section resolved, and warnings. `absolute` makes a path of a text and the key it stands at."""
    _check_listen(section, plain, problems)
    _check_client_auth(section, problems)
    pairs = tuple(
        PairFiles(cert=absolute(pair.cert, "certificates"), key=absolute(pair.key, "certificates"))
        for pair in section.certificates
    )
    tls = Tls(
        listen=section.listen,
        certificates=pairs,
        min_version=section.min_version,
        redirect_port=(section.redirect_port or -1) if section.redirect_http else 0,
        hsts=section.hsts,
        client_auth=section.client_auth,
        client_ca=absolute(section.client_ca, "client_ca") if section.client_ca else None,
    )
    return tls, _check_files(tls, problems)


def _check_listen(section: TlsSection, plain: tuple[Address, ...], problems: Problems) -> None:
    if problems.touch(("tls",), ("server", "listen")):
        return
    if not plain and not section.listen:
        problems.add(("server", "listen"), "is empty; expected 1 to 64 items, or [tls] listen")
    if section.listen and not section.certificates:
        problems.add(("tls", "certificates"), 'there is none; expected {cert = "fullchain.pem", key = "privkey.pem"}')
    if section.certificates and not section.listen:
        problems.add(("tls", "listen"), 'is empty: nobody is shown the certificates; expected one like "0.0.0.0:443"')
    known = {same_address(one) for one in plain} - {None}
    for number, one in enumerate(section.listen):
        if same_address(one) in known:
            problems.add(
                ("tls", "listen", number), f"'{one}' is in [server] listen too; expected an address of its own"
            )
    if section.redirect_http and not section.redirect_port and all(one.is_unix for one in section.listen):
        problems.add(("tls", "redirect_http"), "there is no TLS port to send anybody to; expected one in [tls] listen")


def _check_client_auth(section: TlsSection, problems: Problems) -> None:
    if problems.touch(("tls", "client_auth"), ("tls", "client_ca")):
        return
    if section.client_auth != "off" and not section.client_ca:
        problems.add(("tls", "client_ca"), f'client_auth = "{section.client_auth}" needs one; expected a file in PEM')
    if section.client_auth == "off" and section.client_ca:
        problems.add(("tls", "client_auth"), 'is "off", so client_ca says nothing; expected "optional" or "required"')


def _check_files(tls: Tls, problems: Problems) -> tuple[str, ...]:
    if problems.touch(("tls",)):
        return ()
    loaded = load_certificates(tls)
    for number, sentence in loaded.problems:
        problems.add(("tls", "client_ca") if number is None else ("tls", "certificates", number), sentence)
    now = time.time()
    return tuple(sentence for facts in loaded.facts for sentence in warnings_about(facts, now))
