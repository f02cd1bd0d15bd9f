"""One context for all upstreams, from files as they may be; and what a failed handshake is called."""

from __future__ import annotations

import ssl
from contextlib import nullcontext

import pytest
from cryptography.hazmat.primitives import serialization

from bgproxy.core.settings import UpstreamTls
from bgproxy.tls import upstream as upstream_tls
from bgproxy.tls.upstream import BadFile, client_context, system_store_is_empty, why
from tests.support.upstream_certificates import ca_pem, cert_pem, key_pem, leaf, server_context

OURS = leaf("client.example")
CERT, KEY = cert_pem(OURS), key_pem(OURS)
ENCRYPTED = serialization.load_pem_private_key(KEY, None).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
)


# --- the context ------------------------------------------------------------------------------------------------------


def test_the_default_verifies_with_the_system_and_speaks_nothing_old():
    context = client_context(UpstreamTls())
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_ca_of_our_own_is_the_only_one_that_is_trusted():
    context = client_context(UpstreamTls(ca=ca_pem() + "# Société\n".encode() + ca_pem("second")))
    assert len(context.get_ca_certs()) == 2


def test_without_verification_nothing_is_verified():
    context = client_context(UpstreamTls(verify=False, ca=ca_pem()))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize("files", [{"cert": CERT, "key": KEY}, {"cert": CERT + KEY}, {"cert": KEY + CERT}])
def test_a_client_certificate_may_share_its_file_with_its_key(files):
    client_context(UpstreamTls(**files))


@pytest.mark.parametrize(
    ("files", "key", "complaint"),
    [
        ({"ca": b"junk"}, "ca", "holds no certificate"),
        ({"ca": KEY}, "ca", "holds no certificate"),
        ({"ca": ca_pem()[:200]}, "ca", "holds no certificate, or a damaged one"),
        ({"cert": b"junk", "key": KEY}, "cert", "holds no certificate"),
        ({"cert": CERT}, "cert", "holds no private key; expected it in the same file"),
        ({"cert": CERT, "key": CERT}, "key", "holds no private key"),
        ({"cert": CERT, "key": key_pem(leaf("other.example"))}, "key", "not that of the certificate"),
        ({"cert": CERT, "key": ENCRYPTED}, "key", "is encrypted; expected one without a passphrase"),
        ({"cert": CERT + ENCRYPTED}, "cert", "is encrypted"),
        ({"cert": CERT, "key": KEY[:80] + KEY[120:]}, "key", "cannot be used"),
    ],
)
def test_a_bad_file_is_named_by_its_key_with_what_was_expected(files, key, complaint):
    with pytest.raises(BadFile, match=complaint) as caught:
        client_context(UpstreamTls(**files))
    assert caught.value.key == key
    assert "memfd" not in str(caught.value)
    assert "/proc" not in str(caught.value)


def test_the_systems_store_is_a_file_or_a_directory_with_something_in_it(monkeypatch, tmp_path):
    def paths(cafile: str | None, capath: object) -> None:
        found = ssl.DefaultVerifyPaths(cafile, capath and str(capath), "", "", "", "")
        monkeypatch.setattr(upstream_tls.ssl, "get_default_verify_paths", lambda: found)

    paths(None, None)
    assert system_store_is_empty()
    paths(None, tmp_path)
    assert system_store_is_empty()
    paths(None, tmp_path / "gone")
    assert system_store_is_empty()
    (tmp_path / "ca.0").touch()
    paths(None, tmp_path)
    assert not system_store_is_empty()
    paths("/etc/ca.pem", None)
    assert not system_store_is_empty()


# --- what a failed handshake is called --------------------------------------------------------------------------------


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str = "app.internal") -> ssl.SSLError:
    """The client's error. With TLS 1.3 that of its first reading, which is when it hears of the server's."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        for step in (ours.do_handshake, theirs.do_handshake, ours.read):
            try:
                step()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                if step != theirs.do_handshake:
                    return error
    raise AssertionError("nothing went wrong")


TRUSTING = {"ca": ca_pem()}


@pytest.mark.parametrize(
    ("settings", "server", "sentence"),
    [
        (TRUSTING, {"expired": True}, "the upstream's certificate has expired"),
        (TRUSTING, {"by": "another"}, "the upstream's certificate is of an unknown CA (unable to get local issuer"),
        (TRUSTING, {"asks_for": "ours"}, "the upstream asks for a client certificate"),
        (TRUSTING | {"cert": CERT, "key": KEY}, {"asks_for": "z"}, "the upstream does not accept the client certifi"),
        (TRUSTING, {"most": ssl.TLSVersion.TLSv1_1}, "the upstream does not speak TLS 1.2 or later"),
    ],
)
def test_the_usual_reasons_have_a_sentence_of_their_own(settings, server, sentence):
    with pytest.warns(DeprecationWarning, match="TLSv1_1") if server.get("most") else nullcontext():
        context = server_context("app.internal", **server)
    assert why(handshake(client_context(UpstreamTls(**settings)), context)).startswith(sentence)


@pytest.mark.parametrize(("certified", "asked"), [("app.internal", "db.internal"), ("127.0.0.1", "127.0.0.2")])
def test_another_name_is_said_with_the_name_that_was_asked_for(certified, asked):
    error = handshake(client_context(UpstreamTls(ca=ca_pem())), server_context(certified), asked)
    assert why(error) == f"the upstream's certificate is not for {asked!r}"


def test_what_is_not_valid_yet_or_else_not_acceptable_is_said():
    early, odd = ssl.SSLCertVerificationError(), ssl.SSLCertVerificationError()
    early.verify_code, early.verify_message = 9, "certificate is not yet valid"
    odd.verify_code, odd.verify_message = 79, "invalid CA certificate"
    assert why(early) == "the upstream's certificate is not valid yet"
    assert why(odd) == "the upstream's certificate is not acceptable (invalid CA certificate)"


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("WRONG_VERSION_NUMBER", "the upstream does not speak TLS"),
        ("RECORD_LAYER_FAILURE", "the upstream does not speak TLS"),
        ("TLSV1_UNRECOGNIZED_NAME", "the upstream does not know the server name"),
        ("TLSV1_ALERT_NO_APPLICATION_PROTOCOL", "the upstream does not speak HTTP/1.1 over TLS"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "the upstream refused the handshake: no common cipher, or no client cert"),
        ("BAD_LUCK", "the TLS handshake failed (bad luck)"),
        (None, "the TLS handshake failed (no reason given)"),
    ],
)
def test_every_other_reason_is_said_as_openssl_calls_it(reason, sentence):
    error = ssl.SSLError()
    error.reason = reason
    assert why(error).startswith(sentence)


def test_an_upstream_that_just_leaves_has_left():
    assert why(ConnectionResetError()) == "the upstream closed the connection during the TLS handshake"
