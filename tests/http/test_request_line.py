"""The first line, its target, and Host: what is refused, and what passes byte for byte. RFC 9112 sections 2.3 and 3."""

from __future__ import annotations

import pytest

from tests.support.raw_http import request
from tests.support.through import SMUGGLED, Through

HOST = b"\r\nHost: a.example\r\n\r\n"


def get(target: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", *(fields or (b"Host: a.example",))]) + b"\r\n\r\n"


def with_host(*values: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"GET /case HTTP/" + version, *(b"Host: " + value for value in values)]) + b"\r\n\r\n"


MALFORMED = {
    "two spaces before the target": b"GET  /case HTTP/1.1" + HOST,
    "two spaces behind the target": b"GET /case  HTTP/1.1" + HOST,
    "space at the end": b"GET /case HTTP/1.1 " + HOST,
    "space at the beginning": b" GET /case HTTP/1.1" + HOST,
    "tab before the target": b"GET\t/case HTTP/1.1" + HOST,
    "tab behind the target": b"GET /case\tHTTP/1.1" + HOST,
    "no target": b"GET HTTP/1.1" + HOST,
    "no version": b"GET /case" + HOST,
    "HTTP/0.9": b"GET /case\r\n",
    "HTTP/0.9 with fields": b"GET /case\r\nHost: a\r\n\r\n",
    "method with a slash": b"GE/T /case HTTP/1.1" + HOST,
    "method in parentheses": b"(GET) /case HTTP/1.1" + HOST,
    "method with a NUL": b"GET\x00 /case HTTP/1.1" + HOST,
    "method in quotes": b'"GET" /case HTTP/1.1' + HOST,
    "empty method": b" /case HTTP/1.1" + HOST,
    "NUL in the target": get(b"/ca\x00se"),
    "tab in the target": get(b"/ca\tse"),
    "space in the target": get(b"/ca se"),
    "CR in the target": get(b"/ca\rse"),
    "DEL in the target": get(b"/ca\x7fse"),
    "control character in the target": get(b"/ca\x01se"),
    "obs-text in the target": get(b"/ca\xe9se"),
    "fragment": get(b"/case#part"),
    "empty fragment": get(b"/case#"),
    "fragment of an absolute target": get(b"http://a.example/#part"),
    "no leading slash": get(b"case"),
    "query alone": get(b"?case"),
    "authority-form": get(b"a.example:80"),
    "asterisk for GET": get(b"*"),
    "asterisk and more": b"OPTIONS *x HTTP/1.1" + HOST,
    "ftp": get(b"ftp://a.example/"),
    "scheme without authority": get(b"http:/case"),
    "empty authority": get(b"http:///case"),
    "user in the authority": get(b"http://user@a.example/"),
    "password in the authority": get(b"http://user:pass@a.example/"),
    "two at signs": get(b"http://a@b@c/"),
    "no number for a port": get(b"http://a.example:x/"),
    "open bracket": get(b"http://[::1/"),
    "no HTTP in the version": b"GET /case HTP/1.1" + HOST,
    "version without a slash": b"GET /case HTTP1.1" + HOST,
}
PATHS = {
    "backslash": get(b"/case\\b"),
    "backslash at once": get(b"/\\evil.example/"),
    "encoded NUL": get(b"/case%00.png"),
    "backslash in an absolute target": get(b"http://a.example/case\\b"),
    "out of the root": get(b"/../case"),
    "out of the root, later": get(b"/case/../../x"),
    "out of the root, encoded": get(b"/%2e%2E/case"),
    "out of the root by encoded slashes": get(b"/case/..%2f..%2fx"),
    "out of the root by encoded backslashes": get(b"/..%5ccase"),
    "out of the root with a parameter": get(b"/..;a/case"),
    "out of the root in an absolute target": get(b"http://a.example/../case"),
}
OTHER_VERSIONS = {
    "HTTP/0.9": b"GET /case HTTP/0.9" + HOST,
    "HTTP/1.2": b"GET /case HTTP/1.2" + HOST,
    "HTTP/2.0": b"GET /case HTTP/2.0" + HOST,
    "HTTP/2": b"GET /case HTTP/2" + HOST,
    "HTTP/3.0": b"GET /case HTTP/3.0" + HOST,
    "HTTP/1": b"GET /case HTTP/1" + HOST,
    "HTTP/1.10": b"GET /case HTTP/1.10" + HOST,
    "HTTP/01.1": b"GET /case HTTP/01.1" + HOST,
    "HTTP/-1.1": b"GET /case HTTP/-1.1" + HOST,
    "HTTP/1.1x": b"GET /case HTTP/1.1x" + HOST,
    "HTTP/1,1": b"GET /case HTTP/1,1" + HOST,
    "HTTP/1.\u0661": "GET /case HTTP/1.\u0661".encode() + HOST,
    "the HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
}
OTHER_PROTOCOLS = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x5a" * 32,
    "PROXY protocol, version 1": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
    "PROXY protocol, version 2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + b"\0" * 12,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SMTP": b"EHLO a.example\r\n",
    "zeros": b"\0" * 64,
    "JSON": b'{"jsonrpc": "2.0"}\r\n',
    "a response": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
}
HOSTS = {
    "none": b"GET /case HTTP/1.1\r\n\r\n",
    "none, with an absolute target": b"GET http://a.example/case HTTP/1.1\r\n\r\n",
    "two": with_host(b"a.example", b"b.example"),
    "two, identical": with_host(b"a.example", b"a.example"),
    "two, first empty": with_host(b"", b"a.example"),
    "two, in other case": b"GET /case HTTP/1.1\r\nHost: a\r\nHOST: b\r\n\r\n",
    "two, with an absolute target": b"GET http://a/case HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two in HTTP/1.0": with_host(b"a.example", b"b.example", version=b"1.0"),
    "empty": with_host(b""),
    "space inside": with_host(b"a b"),
    "tab inside": with_host(b"a\tb"),
    "a list": with_host(b"a.example, b.example"),
    "user": with_host(b"user@a.example"),
    "path": with_host(b"a.example/path"),
    "query": with_host(b"a.example?x"),
    "fragment": with_host(b"a.example#x"),
    "scheme": with_host(b"http://a.example"),
    "backslash": with_host(b"a.example\\b"),
    "port that is no number": with_host(b"a.example:http"),
    "port of six digits": with_host(b"a.example:123456"),
    "signed port": with_host(b"a.example:-1"),
    "two ports": with_host(b"a.example:80:81"),
    "port alone": with_host(b":80"),
    "open bracket": with_host(b"[::1"),
    "bracketed name": with_host(b"[a.example]"),
    "text behind the bracket": with_host(b"[::1]x"),
    "broken percent-encoding": with_host(b"a%2"),
    "obs-text": with_host(b"\xe9.example"),
    "NUL": with_host(b"a\x00"),
    "quote": with_host(b'"a"'),
    "angle brackets": with_host(b"<a>"),
    "of 300 characters": with_host(b"a" * 300),
    "invalid in HTTP/1.0": with_host(b"a b", version=b"1.0"),
}
REFUSED = {
    "malformed": (400, "bad_request", MALFORMED),
    "path": (400, "bad_request", PATHS),
    "https": (421, "misdirected", {"https": get(b"https://a.example/case"), "HTTPS": get(b"HTTPS://b.example:443")}),
    "version": (505, "unsupported", OTHER_VERSIONS),
    "protocol": (400, "bad_request", OTHER_PROTOCOLS),
    "host": (400, "bad_request", HOSTS),
    "CONNECT": (
        501,
        "unsupported",
        {
            "authority": b"CONNECT a.example:443 HTTP/1.1" + HOST,
            "path": b"CONNECT /case HTTP/1.1" + HOST,
            "with a length": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.0": b"CONNECT a:1 HTTP/1.0\r\n\r\n",
        },
    ),
    "TRACE": (
        405,
        "unsupported",
        {
            "plain": b"TRACE /case HTTP/1.1\r\nHost: a\r\nCookie: secret\r\n\r\n",
            "Max-Forwards": b"TRACE /case HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
        },
    ),
    "method": (
        501,
        "unsupported",
        {
            "unknown": b"BREW /case HTTP/1.1" + HOST,
            "longer than a known one": b"GETX /case HTTP/1.1" + HOST,
            "beginning of a known one": b"GE /case HTTP/1.1" + HOST,
            "in lower case": b"get /case HTTP/1.1" + HOST,
            "in mixed case": b"Brew /case HTTP/1.1" + HOST,
            "with other token characters": b"M!#$%&'*+-.^_`|~ /case HTTP/1.1" + HOST,
            "SOURCE": b"SOURCE /case HTTP/1.1" + HOST,
        },
    ),
}


CASES = [
    pytest.param(sent, status, reason, id=f"{kind}: {name}")
    for kind, (status, reason, table) in REFUSED.items()
    for name, sent in table.items()
]


@pytest.mark.says("Host empty")
@pytest.mark.says("bytes over 127 in a target")
@pytest.mark.says("a method in lower case")
@pytest.mark.says("HTTP/1.2")
@pytest.mark.says("not valid HTTP/1.1: bare CR or LF")
@pytest.mark.says("no Host in HTTP/1.1")
@pytest.mark.says("a target that is neither a path")
@pytest.mark.says("another version")
@pytest.mark.says("CONNECT")
@pytest.mark.says("TRACE")
@pytest.mark.says("an unknown method")
@pytest.mark.says("in the path: a backslash")
@pytest.mark.says("a backslash, an encoded NUL, or")
@pytest.mark.says("an absolute `https://` target without TLS")
@pytest.mark.says("`https://` in an absolute target")
@pytest.mark.parametrize(("sent", "status", "reason"), CASES)
def test_a_request_that_is_not_for_us_is_refused(through: Through, sent: bytes, status: int, reason: str) -> None:
    through.assert_refused(through.at_once(sent + SMUGGLED), status, reason)
    through.assert_nothing_was_sent()


@pytest.mark.parametrize(("status", "reason", "table"), REFUSED.values(), ids=REFUSED)
def test_a_request_that_is_not_for_us_is_refused_byte_by_byte_as_well(
    through: Through, status: int, reason: str, table: dict[str, bytes]
) -> None:
    through.assert_all_refused(table, status, reason)
    through.assert_nothing_was_sent()


# --- what passes ------------------------------------------------------------------------------------------------------

AS_THEY_CAME = [
    *(
        "/",
        "//",
        "//case//b",
        "/a;b=c",
        "/a?b=c&d",
        "/?",
        "/a??b",
        "/%2Fa%2f%2e%2E%ff%zz",
        "/a/../b/./c/..",
        "/a%20b+c",
    ),
    *("/a:b@c!$&'()*+,=-._~", "/[a]", "/a|b^c`{d}", '/"<a>"', "/a?\\b%00/../..", "/a=%E2%82%AC", "/" + "x" * 8000),
    *("/http://b.example/", "/a?http://b.example/#"[:-1], "/%0d%0aHost:%20b"),
]


@pytest.mark.says("The request line with our own version")
@pytest.mark.says("a backslash, an encoded NUL, or")
def test_a_path_passes_byte_for_byte(through: Through) -> None:
    sent = b"".join(get(target.encode()) for target in AS_THEY_CAME)
    client = through.at_once(sent)
    assert [client.answer().body.decode() for _ in AS_THEY_CAME] == AS_THEY_CAME
    assert [each.target for each in through.requests()] == AS_THEY_CAME


@pytest.mark.says("HTTP/1.1 and HTTP/1.0 towards clients")
@pytest.mark.says("The request line with our own version")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "QUERY"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_upstream_is_spoken_to_in_our_own_version(through: Through, method: str, version: str) -> None:
    client = through.at_once(request(method, "/case", version=version))
    assert client.answer(method).status == 200
    assert client.is_ended() if version == "1.0" else client.ask(target="/next").body == b"/next"
    assert (through.requests()[0].method, through.requests()[0].target) == (method, "/case")


ABSOLUTE = {
    "same host": (b"GET http://a.example/case?x", "/case?x", "a.example"),
    "another host": (b"GET http://b.example/case", "/case", "b.example"),
    "with a port": (b"GET http://b.example:81/case", "/case", "b.example:81"),
    "in capitals": (b"GET HTTP://B.Example/Case", "/Case", "B.Example"),
    "IPv6": (b"GET http://[::1]:80/case", "/case", "[::1]:80"),
    "no path": (b"GET http://b.example", "/", "b.example"),
    "no path but a query": (b"GET http://b.example?x=/y", "/?x=/y", "b.example"),
    "two slashes": (b"GET http://b.example//case", "//case", "b.example"),
    "OPTIONS of a host": (b"OPTIONS http://b.example", "*", "b.example"),
    "OPTIONS of its root": (b"OPTIONS http://b.example/", "/", "b.example"),
    "OPTIONS of everything": (b"OPTIONS *", "*", "a.example"),
}


@pytest.mark.says("an absolute target that differs from Host")
@pytest.mark.says("The authority of an absolute target, port included")
@pytest.mark.says("`OPTIONS *` and `OPTIONS http://host`")
@pytest.mark.parametrize(("line", "target", "host"), ABSOLUTE.values(), ids=ABSOLUTE)
def test_the_authority_of_the_target_is_the_host(through: Through, line: bytes, target: str, host: str) -> None:
    assert through.at_once(line + b" HTTP/1.1" + HOST).answer().body.decode() == target
    (asked,) = through.requests()
    assert (asked.target, asked.all("host"), asked.all("x-forwarded-host")) == (target, [host], [host])


@pytest.mark.says("no Host in HTTP/1.1")
def test_hosts_as_they_may_be(through: Through) -> None:
    hosts = [b"a", b"A.example", b"a.example:80", b"a.example:", b"1.2.3.4", b"[::1]", b"[::1]:8080", b"a_b", b"xn--a~"]
    hosts += [b"%41", b"a!$&'()*+;=b", b"a" * 255]
    client = through.at_once(b"".join(with_host(b" " + host + b"\t") for host in hosts))
    assert {client.answer().status for _ in hosts} == {200}
    assert [each.all("host") for each in through.requests()] == [[host.decode()] for host in hosts]


@pytest.mark.says("no Host in HTTP/1.1")
def test_a_1_0_request_needs_no_host(through: Through) -> None:
    assert through.at_once(b"GET /case HTTP/1.0\r\n\r\n").answer().body == b"/case"
    assert through.requests()[0].all("host") == [str(through.plane.worker.address)]
