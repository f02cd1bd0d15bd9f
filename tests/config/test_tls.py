"""The [tls] section: what its keys mean together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.certificates import authority, issue, write_pair
from tests.support.configs import load_text, problems_of

PAIR = 'certificates = [{cert = "cert.pem", key = "key.pem"}]\n'


@pytest.fixture(autouse=True)
def _pair_on_disk(tmp_path):
    write_pair(issue("a.example"), tmp_path / "cert.pem", tmp_path / "key.pem")
    authority().cert_pem.write_to_path(str(tmp_path / "ca.pem"))


def test_without_the_section_there_is_no_tls(tmp_path):
    tls = load_text(tmp_path, "").tls
    assert (tls.listen, tls.certificates, tls.redirect_port, tls.hsts, tls.client_auth) == ((), (), 0, 0.0, "off")


def test_paths_start_at_the_directory_of_the_file(tmp_path):
    tls = load_text(
        tmp_path, f'[tls]\nlisten = ["127.0.0.1:0"]\n{PAIR}client_auth = "optional"\nclient_ca = "ca.pem"\n'
    ).tls
    (pair,) = tls.certificates
    assert (pair.cert, pair.key, tls.client_ca) == tuple(tmp_path / f"{name}.pem" for name in ("cert", "key", "ca"))


@pytest.mark.parametrize(
    ("keys", "port", "settings_port"),
    [
        ("", 0, 0),
        ("redirect_port = 443\n", 0, 0),
        ("redirect_http = true\n", -1, 8443),
        ("redirect_http = true\nredirect_port = 443\n", 443, 443),
    ],
)
def test_a_redirect_goes_to_the_port_that_is_said_or_to_that_of_the_listener(tmp_path, keys, port, settings_port):
    config = load_text(tmp_path, f'[tls]\nlisten = ["127.0.0.1:0"]\n{PAIR}hsts = "1h"\n{keys}')
    assert config.tls.redirect_port == port
    https = config.worker_settings(tls_port=8443).https
    assert (https.redirect_port, https.hsts) == (settings_port, 3600)


def test_tls_alone_may_listen(tmp_path):
    config = load_text(tmp_path, f'[server]\nlisten = []\n[tls]\nlisten = ["127.0.0.1:0"]\n{PAIR}')
    assert config.server.listen == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nlisten = []\n", "[server] listen: is empty; expected 1 to 64 items, or [tls] listen"),
        ('[tls]\nlisten = ["127.0.0.1:0"]\n', "[tls] certificates: there is none; expected {cert = "),
        (f"[tls]\n{PAIR}", "[tls] listen: is empty: nobody is shown the certificates"),
        (
            f'[tls]\nlisten = ["127.0.0.1:8080"]\n{PAIR}',
            "[tls] listen[0]: '127.0.0.1:8080' is in [server] listen too; expected an address of its own",
        ),
        (
            f'[tls]\nlisten = ["127.0.0.1:8081"]\n{PAIR}',
            "'127.0.0.1:8081' is in [server] listen or [tls] listen too",
        ),
        (
            f'[tls]\nlisten = ["unix:/run/x"]\nredirect_http = true\n{PAIR}',
            "[tls] redirect_http: there is no TLS port to send anybody to",
        ),
        (
            f'[tls]\nlisten = ["127.0.0.1:0"]\nclient_auth = "required"\n{PAIR}',
            '[tls] client_ca: client_auth = "required" needs one; expected a file in PEM',
        ),
        (
            f'[tls]\nlisten = ["127.0.0.1:0"]\nclient_ca = "ca.pem"\n{PAIR}',
            '[tls] client_auth: is "off", so client_ca says nothing; expected "optional" or "required"',
        ),
        (
            f'[tls]\nlisten = ["127.0.0.1:0"]\nclient_auth = "required"\nclient_ca = "key.pem"\n{PAIR}',
            "[tls] client_ca: the client authority ",
        ),
        ('[tls]\nmin_version = "1.1"\n', "[tls] min_version: is the text '1.1', which is broken"),
        (
            '[tls]\nlisten = ["127.0.0.1:0"]\ncertificates = [{cert = "cert.pem", key = "gone.pem"}]\n',
            "[tls] certificates[0]: the key ",
        ),
        ('[tls]\nlisten = ["127.0.0.1:0"]\ncertificates = ["cert.pem"]\n', "certificates[0]: is the text 'cert.pem'"),
    ],
)
def test_what_does_not_fit_together_is_said_where_it_stands(tmp_path, text, expected):
    (problem,) = problems_of(tmp_path, text)
    assert expected in problem
    assert "bgproxy.toml:" in problem


def test_an_expired_certificate_is_a_warning(tmp_path):
    expired = issue("a.example", not_after=datetime.now(UTC) - timedelta(days=1))
    write_pair(expired, tmp_path / "cert.pem", tmp_path / "key.pem")
    config = load_text(tmp_path, f'[tls]\nlisten = ["127.0.0.1:0"]\n{PAIR}')
    (warning,) = config.warnings
    assert warning == f"the certificate {tmp_path / 'cert.pem'} has expired: clients will refuse it"
