"""Certificate files to what workers are given: read, understood, and tried in OpenSSL before anybody depends on them.

The files are read again whenever they change, so everything that can be wrong with them is a sentence here, never an
exception. A set with anything wrong in it is not used at all.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from bgproxy.config.references import read_bytes
from bgproxy.core.certificates import Pair, TlsMaterial, normal_name
from bgproxy.tls.contexts import Contexts

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from bgproxy.core.model import Address

_MAX_FILE = 256 * 1024  # bytes; a chain of five takes 10 KB
_MAX_ALL = 2 * 1024 * 1024  # bytes of all pairs together: they travel in one message


class PairFiles(msgspec.Struct, frozen=True, kw_only=True):
    cert: Path
    key: Path


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """`redirect_port` is 0 where plain requests are served, else the port of https they are sent to; -1 for that of the
    first TLS address, which is known when it is open."""

    listen: tuple[Address, ...] = ()
    certificates: tuple[PairFiles, ...] = ()
    min_version: Literal["1.2", "1.3"] = "1.2"
    redirect_port: int = 0
    hsts: float = 0.0
    client_auth: Literal["off", "optional", "required"] = "off"
    client_ca: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that, when it changes, asks for another look."""
        own = (self.client_ca,) if self.client_ca else ()
        return (*(path for pair in self.certificates for path in (pair.cert, pair.key)), *own)


class CertificateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator may see of a pair. Times are Unix seconds."""

    names: tuple[str, ...]
    key_type: str
    not_before: float
    not_after: float
    cert: str


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the files. `problems` are (number of the pair, None for the client authority; sentence); where there
    are any, `material` is None."""

    material: TlsMaterial | None
    facts: tuple[CertificateFacts, ...]
    problems: tuple[tuple[int | None, str], ...]


def load_certificates(tls: Tls, *, version: int = 1) -> Loaded:
    """Takes some milliseconds, and as long as the disk does."""
    found = [_read_pair(files) for files in tls.certificates]
    problems: list[tuple[int | None, str]] = [(n, each) for n, each in enumerate(found) if isinstance(each, str)]
    good = [each for each in found if not isinstance(each, str)]
    client_ca = _read_client_ca(tls.client_ca) if tls.client_ca else b""
    if isinstance(client_ca, str):
        problems.append((None, client_ca))
        client_ca = b""
    if sum(len(pair.pem) for pair, _ in good) > _MAX_ALL:
        problems.append((0, f"all pairs together are larger than {_MAX_ALL} bytes; expected fewer of them"))
    material = None
    if good and not problems:
        material = TlsMaterial(
            version,
            tuple(pair for pair, _ in good),
            min_version=tls.min_version,
            client_auth=tls.client_auth,
            client_ca=client_ca,
        )
        try:
            Contexts(material)
        except (ssl.SSLError, ValueError) as error:
            return Loaded(material=None, facts=(), problems=((0, f"the pairs do not work together: {error}"),))
    return Loaded(material=material, facts=tuple(facts for _, facts in good), problems=tuple(problems))


def warnings_about(facts: CertificateFacts, now: float) -> list[str]:
    """Sentences about a certificate that can be shown, and that clients will not like."""
    sentences = []
    if facts.not_after <= now:
        sentences.append(f"the certificate {facts.cert} has expired: clients will refuse it")
    if facts.not_before > now:
        sentences.append(f"the certificate {facts.cert} is not valid yet: clients will refuse it")
    if not facts.names:
        sentences.append(f"the certificate {facts.cert} has no subjectAltName: clients will refuse it for every name")
    return sentences


# --- one pair -------------------------------------------------------------------------------------------------------


def _read_pair(files: PairFiles) -> tuple[Pair, CertificateFacts] | str:
    try:
        chain_pem, key_pem = _read(files.cert, "certificate"), _read(files.key, "key")
        leaf = _leaf(files.cert, chain_pem)
        key = _private_key(files.key, key_pem)
        if _public_bytes(leaf.public_key()) != _public_bytes(key.public_key()):
            raise ValueError(
                f"the key {files.key} does not belong to the first certificate in {files.cert}; "
                "expected the two of one pair, and the server's own certificate before its chain"
            )
        names = _names(leaf)
        pair = Pair(names, _key_type(key), chain_pem.rstrip(b"\n") + b"\n" + key_pem)
        _try(files, pair)
    except ValueError as error:
        return str(error) if "expected" in str(error) else _not_usable(files, error)
    except Exception as error:  # whatever a library has to say about an odd certificate: it is not ours to crash
        return _not_usable(files, error)
    return pair, CertificateFacts(
        names=names,
        key_type=pair.key_type,
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        cert=str(files.cert),
    )


def _not_usable(files: PairFiles, error: Exception) -> str:
    return f"the pair {files.cert}, {files.key} cannot be used: {error or type(error).__name__}; expected another"


def _read(path: Path, what: str) -> bytes:
    try:
        return read_bytes(path, _MAX_FILE)
    except ValueError as error:
        raise ValueError(f"the {what} {path}: {error}; expected a file in PEM that this user may read") from None


def _leaf(path: Path, pem: bytes) -> Certificate:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except ValueError:
        raise ValueError(f"the certificate {path} is not one in PEM; expected -----BEGIN CERTIFICATE-----") from None


def _private_key(path: Path, pem: bytes) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(pem, None)
    except TypeError:
        raise ValueError(
            f"the key {path} is encrypted; expected one without a passphrase, as `openssl pkey -in {path}` prints it"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"the key {path} is not a private key in PEM; expected -----BEGIN PRIVATE KEY-----") from None


def _public_bytes(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _key_type(key: Any) -> str:
    """OpenSSL keeps one pair of each in a context."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(key, rsa.RSAPrivateKey):
        return "rsa"
    return "ecdsa" if isinstance(key, ec.EllipticCurvePrivateKey) else type(key).__name__.lower()


def _names(leaf: Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    hosts = extension.get_values_for_type(x509.DNSName)
    addresses = extension.get_values_for_type(x509.IPAddress)
    return tuple(dict.fromkeys(normal_name(str(name)) for name in (*hosts, *addresses)))


def _try(files: PairFiles, pair: Pair) -> None:
    try:
        Contexts(TlsMaterial(0, (pair,)))
    except ssl.SSLError as error:
        why = (error.reason or str(error)).lower().replace("_", " ")
        raise ValueError(
            f"the pair {files.cert}, {files.key} is refused by OpenSSL: {why}; "
            "expected RSA of 2048 bits or more, or an elliptic curve"
        ) from None


def _read_client_ca(path: Path) -> bytes | str:
    from cryptography import x509

    try:
        pem = _read(path, "client authority")
        x509.load_pem_x509_certificates(pem)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=pem.decode("ascii", "replace"))
    except ssl.SSLError:
        return f"the client authority {path} is refused by OpenSSL; expected certificates in PEM"
    except ValueError as error:
        return str(error) if "expected" in str(error) else f"the client authority {path} is not in PEM; expected it so"
    return pem
