"""From certificates to contexts, with handshakes in memory."""

from __future__ import annotations

import ssl
import sys
from types import SimpleNamespace

import pytest

from bgproxy.core.certificates import Pair
from bgproxy.tls.contexts import Contexts, ignore_names_that_are_no_text
from tests.support.certificates import ECDSA, RSA, client_context, handshake, material, pair

PAIRS = (
    pair("a.example", "*.a.example"),
    pair("b.example", key_type=RSA),
    pair("b.example", key_type=ECDSA),
    pair("192.0.2.1"),
)
CONTEXTS = Contexts(material(*PAIRS))


def shown_to(name: str, contexts: Contexts = CONTEXTS, **attributes: object) -> list[str]:
    client, _ = handshake(client_context(check_hostname=False, **attributes), contexts.initial, name)
    return [value for _, value in (client.getpeercert() or {})["subjectAltName"]]


@pytest.mark.parametrize(
    ("name", "first_name"),
    [
        ("a.example", "a.example"),
        ("A.EXAMPLE", "a.example"),
        ("x.a.example", "a.example"),
        ("b.example", "b.example"),
        ("x.b.example", "a.example"),  # nobody's: the first
        ("stranger.example", "a.example"),
        ("", "a.example"),
    ],
)
def test_a_name_gets_its_certificate_and_a_stranger_the_first(name, first_name):
    assert shown_to(name)[0] == first_name


@pytest.mark.parametrize(("ciphers", "kind"), [("ECDHE+aRSA", "RSA"), ("ECDHE+aECDSA", "ECDSA")])
def test_of_two_pairs_for_a_name_the_client_gets_the_one_it_can_use(ciphers, kind):
    context = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(ciphers)
    client, _ = handshake(context, CONTEXTS.initial, "b.example")
    cipher = client.cipher()
    assert cipher is not None
    assert kind in cipher[0]


def test_the_names_of_all_certificates_are_covered_and_no_other():
    for name in ("a.example", "x.a.example", "b.example", "192.0.2.1"):
        assert CONTEXTS.covers(name)
    for name in ("x.y.a.example", "c.example", "192.0.2.2", ""):
        assert not CONTEXTS.covers(name)


def test_a_certificate_without_names_is_shown_to_everybody():
    contexts = Contexts(material(Pair((), "ecdsa", PAIRS[0].pem)))
    assert shown_to("anything.example", contexts)[0] == "a.example"


def test_versions_below_the_minimum_are_refused():
    old = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(ssl.SSLError):
        handshake(old, Contexts(material(PAIRS[0], min_version="1.3")).initial, "a.example")
    older = client_context(minimum_version=ssl.TLSVersion.TLSv1_2)
    client, _ = handshake(older, CONTEXTS.initial, "a.example")
    assert client.version() == "TLSv1.3"
    assert CONTEXTS.initial.minimum_version == ssl.TLSVersion.TLSv1_2


def test_what_is_negotiated_is_forward_secret_and_authenticated():
    names = [cipher["name"] for cipher in CONTEXTS.initial.get_ciphers()]
    assert names
    for name in names:
        assert name.startswith(("TLS_", "ECDHE-"))
        assert "GCM" in name or "CHACHA20" in name


def test_http_1_1_is_what_is_agreed_on():
    context = client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    client, _ = handshake(context, CONTEXTS.initial, "a.example")
    assert client.selected_alpn_protocol() == "http/1.1"


def test_an_encrypted_key_asks_nobody_for_a_password():
    with pytest.raises(ssl.SSLError):
        Contexts(material(Pair((), "rsa", b"rubbish")))


def test_only_what_a_stranger_can_cause_is_kept_from_standard_error(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    ignore_names_that_are_no_text()
    error = UnicodeDecodeError("ascii", b"\xff", 0, 1, "no ASCII")
    sys.unraisablehook(SimpleNamespace(exc_value=error, object=b"\xff.example"))
    assert seen == []
    ours = [SimpleNamespace(exc_value=error, object=print), SimpleNamespace(exc_value=ValueError(), object=b"x")]
    for each in ours:
        sys.unraisablehook(each)
    assert seen == ours
