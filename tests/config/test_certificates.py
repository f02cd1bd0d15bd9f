"""Certificate files as operators have them: good, broken, mismatched, expired, and what is said about each."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from bgproxy.config.certificates import PairFiles, Tls, load_certificates, warnings_about
from tests.support.certificates import RSA, authority, issue, write_pair


class Files:
    def __init__(self, directory: Path) -> None:
        self.cert, self.key, self.ca = directory / "cert.pem", directory / "key.pem", directory / "ca.pem"
        write_pair(issue("a.example", "*.A.example", "192.0.2.1"), self.cert, self.key)
        authority().cert_pem.write_to_path(str(self.ca))

    def tls(self, **more: object) -> Tls:
        return Tls(certificates=(PairFiles(cert=self.cert, key=self.key),), **more)  # type: ignore[arg-type]

    def problem(self, **more: object) -> str:
        """The only one."""
        loaded = load_certificates(self.tls(**more))
        assert loaded.material is None
        ((_, sentence),) = loaded.problems
        assert "expected" in sentence
        assert "Traceback" not in sentence
        return sentence


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_a_good_pair_is_understood(files):
    loaded = load_certificates(files.tls(client_auth="required", client_ca=files.ca), version=7)
    assert loaded.problems == ()
    material, (facts,) = loaded.material, loaded.facts
    assert (material.version, material.client_auth) == (7, "required")
    assert material.pairs[0].names == facts.names == ("a.example", "*.a.example", "192.0.2.1")
    assert material.pairs[0].key_type == "ecdsa"
    assert material.client_ca == files.ca.read_bytes()
    assert facts.not_before < time.time() < facts.not_after
    assert facts.cert == str(files.cert)
    assert warnings_about(facts, time.time()) == []


def test_without_certificates_there_is_nothing_to_say():
    loaded = load_certificates(Tls())
    assert (loaded.material, loaded.facts, loaded.problems) == (None, (), ())


def test_every_file_that_may_change_is_named(files):
    assert files.tls(client_ca=files.ca).files == (files.cert, files.key, files.ca)
    assert files.tls().files == (files.cert, files.key)


def test_an_rsa_key_is_known_as_one(files):
    write_pair(issue("a.example", key_type=RSA), files.cert, files.key)
    assert load_certificates(files.tls()).material.pairs[0].key_type == "rsa"


def test_a_missing_file_is_named(files):
    files.key.unlink()
    assert files.problem().startswith(f"the key {files.key}: there is no such file")
    files.cert.unlink()
    assert files.problem().startswith(f"the certificate {files.cert}: there is no such file")


def test_a_key_of_another_certificate_is_told(files):
    files.key.write_bytes(issue("a.example").private_key_pem.bytes())
    assert files.problem().startswith(f"the key {files.key} does not belong to the first certificate in {files.cert}")


def test_a_chain_in_the_wrong_order_is_told(files):
    files.cert.write_bytes(authority().cert_pem.bytes() + files.cert.read_bytes())
    assert "the server's own certificate before its chain" in files.problem()


def test_an_encrypted_key_is_told(files):
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    assert files.problem().startswith(f"the key {files.key} is encrypted")


@pytest.mark.parametrize("text", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_told(files, text):
    files.cert.write_bytes(text)
    assert files.problem().startswith(f"the certificate {files.cert} is not one in PEM")


@pytest.mark.parametrize("text", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_told(files, text):
    files.key.write_bytes(text)
    assert files.problem().startswith(f"the key {files.key} is not a private key in PEM")


def test_a_pair_that_is_too_weak_is_told(files):
    key = rsa.generate_private_key(65537, 1024)
    name, now = x509.Name(()), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    files.cert.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
    assert "is refused by OpenSSL: ee key too small" in files.problem()


@pytest.mark.parametrize("text", [b"", b"nonsense"])
def test_a_client_authority_that_is_none_is_told(files, text):
    files.ca.write_bytes(text)
    assert files.problem(client_auth="optional", client_ca=files.ca).startswith(f"the client authority {files.ca}")
    files.ca.unlink()
    assert "there is no such file" in files.problem(client_auth="optional", client_ca=files.ca)


def test_expired_early_and_nameless_certificates_are_warned_about(files):
    now = datetime.now(UTC)
    write_pair(issue("a.example", not_after=now - timedelta(days=1)), files.cert, files.key)
    (facts,) = load_certificates(files.tls()).facts
    assert warnings_about(facts, now.timestamp()) == [
        f"the certificate {files.cert} has expired: clients will refuse it"
    ]
    (early,) = warnings_about(facts, facts.not_before - 1)
    assert "is not valid yet" in early
    write_pair(issue(common_name="a.example"), files.cert, files.key)
    (facts,) = load_certificates(files.tls()).facts
    (nameless,) = warnings_about(facts, now.timestamp())
    assert "has no subjectAltName" in nameless


def test_every_pair_that_is_wrong_is_said_at_once(files, tmp_path):
    gone = PairFiles(cert=tmp_path / "x.pem", key=tmp_path / "y.pem")
    good = PairFiles(cert=files.cert, key=files.key)
    loaded = load_certificates(Tls(certificates=(gone, good, gone)))
    assert loaded.material is None, "a set is used whole or not at all"
    assert [number for number, _ in loaded.problems] == [0, 2]


def test_more_than_fits_into_a_message_is_told(files, monkeypatch):
    monkeypatch.setattr("bgproxy.config.certificates._MAX_ALL", 100)
    assert "larger than 100 bytes" in files.problem()


def test_whatever_a_library_says_about_an_odd_certificate_becomes_a_sentence(files, monkeypatch):
    def odd(_leaf):
        raise RuntimeError("an algorithm of the future")

    monkeypatch.setattr("bgproxy.config.certificates._names", odd)
    assert "cannot be used: an algorithm of the future" in files.problem()


def test_pairs_that_openssl_does_not_take_together_are_told(files, monkeypatch):
    def unwilling(material):
        if material.version:
            raise ssl.SSLError("no")

    monkeypatch.setattr("bgproxy.config.certificates.Contexts", unwilling)
    ((_, sentence),) = load_certificates(files.tls()).problems
    assert sentence.startswith("the pairs do not work together")
