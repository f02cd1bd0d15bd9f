"""A subject as a header field: whatever it holds, one line of printable ASCII comes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.wire.client_certificate import line


def subject(*rdns: tuple[tuple[str, str], ...]) -> dict[str, object]:
    return {"subject": rdns}


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        (None, b""),
        ({}, b""),
        ({"serialNumber": "1"}, b"\r\nX-Client-Cert-Subject: "),
        (
            subject((("organizationName", "Example"),), (("commonName", "robot 7"),)),
            b"\r\nX-Client-Cert-Subject: CN=robot 7,O=Example",
        ),
        (subject((("commonName", "a"), ("userId", "b"))), b"\r\nX-Client-Cert-Subject: CN=a+UID=b"),
        (subject((("emailAddress", "a@b"),)), b"\r\nX-Client-Cert-Subject: emailAddress=a@b"),
        (subject((("2.5.4.97", "x"),)), b"\r\nX-Client-Cert-Subject: 2.5.4.97=x"),
        (subject((("commonName", "é"),)), b"\r\nX-Client-Cert-Subject: CN=\\C3\\A9"),
        (subject((("commonName", "a\r\nX-Admin: 1"),)), b"\r\nX-Client-Cert-Subject: CN=a\\0D\\0AX-Admin: 1"),
        (subject((("commonName", "a,O=Root"),)), b"\r\nX-Client-Cert-Subject: CN=a\\2CO\\3DRoot"),
        (subject((("commonName", ' #"+;<>\\ '),)), b"\r\nX-Client-Cert-Subject: CN=\\20#\\22\\2B\\3B\\3C\\3E\\5C\\20"),
        (subject((("commonName", "#a"),)), b"\r\nX-Client-Cert-Subject: CN=\\23a"),
        (subject((("odd name\r\n", "a"),)), b"\r\nX-Client-Cert-Subject: oddname=a"),
    ],
)
def test_a_subject_is_written_as_rfc_4514_has_it(certificate, expected):
    assert line(certificate) == expected


@given(st.text(), st.text())
def test_no_subject_makes_a_second_line(kind, value):
    made = line(subject(((kind, value),)))
    assert made.startswith(b"\r\n")
    assert made.count(b"\r") == made.count(b"\n") == 1
    assert made[2:].decode("ascii").isprintable()
    assert made.count(b",") == 0
