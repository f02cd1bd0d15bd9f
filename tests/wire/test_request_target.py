"""Request line, target and Host. RFC 9112 sections 3 and 3.2; RFC 9110 section 7.2."""

from __future__ import annotations

import pytest

from bgproxy.wire.request import Refusal, why_hopeless, without_empty_lines
from tests.support.heads import accepted, fields_sent, read, refused, request, sent

# --- Host ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        *("a", "a.example", "A.Example.", "a:80", "a:", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[2001:db8::1]:443"),
        *("xn--bcher-kva.example", "under_score.example", "a%20b", "[::ffff:1.2.3.4]", "h" * 255),
    ],
)
def test_one_valid_host_is_forwarded_as_it_came(host):
    assert fields_sent(request(host=host), b"host") == [host.encode()]
    assert fields_sent(request(host=host), b"x-forwarded-host") == [host.encode()]


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            " ",
            "a b",
            "a/b",
            "a/b@c",
            "u@a",
            "u:p@a",
            "a?b",
            "a#b",
            "http://a",
            "a:b",
            "a:80:80",
            "a:123456",
            ":80",
        ),
        *("[::1", "::1", "[::1]x", "[]", "[g::1]", "a\\b", "a%2", "a%zz", "<a>", '"a"', "b\xfccher.example", "h" * 256),
        *("a\0", "a\tb", "a,b c", "[" + ":" * 46 + "]"),
    ],
)
def test_an_invalid_host_is_refused(host):
    assert refused(request(host=host)) == 400


@pytest.mark.parametrize("second", ["Host: example.org", "Host: other.example", "host: x", "HOST:"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_two_hosts_are_refused_even_when_they_agree(second, version):
    assert refused(request(f"GET / HTTP/{version}", second)) == 400
    assert refused(request(f"GET / HTTP/{version}", "A: 1", "Connection: close", second)) == 400


@pytest.mark.parametrize("first", ["Host:", "host: ", "Host: example.org"])
@pytest.mark.parametrize("between", [(), ("A: 1",), ("Connection: keep-alive",)])
def test_an_empty_host_does_not_make_room_for_a_second(first, between):
    assert refused(request("GET / HTTP/1.1", first, *between, "Host: example.org", host=None)) == 400


def test_no_host_is_refused_in_http_1_1():
    assert refused(request(host=None)) == 400
    assert refused(request("GET / HTTP/1.1", "Connection: keep-alive", host=None)) == 400
    assert refused(request("GET http://a/ HTTP/1.1", host=None)) == 400


def test_http_1_0_may_come_without_a_host():
    assert accepted(request("GET / HTTP/1.0", host=None)).host == b""


@pytest.mark.parametrize("name", ["Hos_t", "Host_"])
def test_nothing_else_is_taken_for_a_host(name):
    assert refused(request("GET / HTTP/1.1", f"{name}: a", host=None)) == 400


# --- the target ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        *(
            "/",
            "//",
            "//a//b",
            "/a/%2e%2E/%0d%0A",
            "/a;b=c?d=e&f",
            "/a/../.",
            "/a/b%2f..%2F..",
            "/?",
            "/a?b?c",
            "/http://a/",
            "/*",
            '/"<>',
            "/?\\%00/../..",
            "/.well-known/x",
        ),
        *("/a|b", "/{}", "/^`", "/%", "/%zz", "/a@b:c"),
    ],
)
def test_a_path_is_forwarded_byte_for_byte(target):
    assert sent(request(f"GET {target} HTTP/1.1"))[0] == f"GET {target} HTTP/1.1".encode()


@pytest.mark.parametrize(
    "target", ["/a b", "/a\tb", "/a\0b", "/\x7f", "/\xe9", "/a\rb", "/a\nb", "/a\x0bb", " /", "/ ", "\t/"]
)
def test_a_blank_a_control_or_a_foreign_character_in_the_target_is_refused(target):
    assert refused(request(f"GET {target} HTTP/1.1")) == 400


@pytest.mark.parametrize(
    "target",
    [
        *("/\\", "/a\\b?c", "/%00", "/a%00.html?b", "http://example.org/a\\", "http://example.org/%00"),
        *("/..", "/../", "/a/../../b", "/./..", "//..", "/%2e%2E", "/a/%2e./..", "/..%2fb", "/a/..%5c..", "/..;a/b"),
    ],
)
def test_a_path_that_servers_read_in_different_ways_is_refused(target):
    assert refused(request(f"GET {target} HTTP/1.1")) == 400


@pytest.mark.parametrize("target", ["/#", "/a#b", "http://a/#b", "/a?b#c"])
def test_a_fragment_is_refused(target):
    assert refused(request(f"GET {target} HTTP/1.1")) == 400


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        ("http://b.example/x?y", b"/x?y", b"b.example"),
        ("http://b.example:81", b"/", b"b.example:81"),
        ("HTTP://b/", b"/", b"b"),
        ("https://b//x", b"//x", b"b"),
        ("http://b?x=/", b"/?x=/", b"b"),
        ("http://[::1]:80/", b"/", b"[::1]:80"),
    ],
)
def test_the_authority_of_an_absolute_target_replaces_host(target, path, host):
    for said in (host.decode(), host.decode().upper(), "other.example:99", None):
        head = request(f"GET {target} HTTP/1.{int(said is not None)}", host=said)
        assert accepted(head).target == path
        assert sent(head)[0] == b"GET %b HTTP/1.1" % path
        assert fields_sent(head, b"host") == [host]
        assert fields_sent(head, b"x-forwarded-host") == [host]


@pytest.mark.parametrize("target", ["http://b", "http://b:81/", "https://b/", "http://[::1]:80/"])
def test_an_absolute_target_takes_no_second_host_with_it(target):
    """The request is served for the authority; but which of two Hosts it was to replace, nobody knows."""
    head = request(f"GET {target} HTTP/1.1", "X: 1", "Host: c", host="a")
    assert refused(head) == 400
    head = request(f"POST {target} HTTP/1.1", "Content-Length: 2", "X-Forwarded-Host: c", "X: a", host="a")
    assert b"a" not in [line.partition(b": ")[2] for line in sent(head) if line != b"X: a"]
    assert fields_sent(head, b"x") == [b"a"]


@pytest.mark.parametrize(
    "target",
    [
        *("http://u@a/", "http://u:p@a/", "http:///x", "http://", "http:/a", "http:a", "ftp://a/", "http://a b/", "a"),
        *("http://a:b/", "http://a\\b/", "a.example:80", "?x", "*x", "./a", "http://[::1/", "ws://a/"),
    ],
)
def test_any_other_target_is_refused(target):
    assert refused(request(f"GET {target} HTTP/1.1")) == 400


@pytest.mark.parametrize(
    ("target", "scheme"),
    [("/", b""), ("http://a/", b"http"), ("HTTPS://a/", b"https"), ("https://a?x", b"https"), ("/https://a/", b"")],
)
def test_the_scheme_of_an_absolute_target_is_known(target, scheme):
    assert accepted(request(f"GET {target} HTTP/1.1", host="a")).scheme == scheme


def test_an_absolute_target_keeps_its_spelling():
    head = request("GET hTTp://EXAMPLE.org:080/%7eA//./..;x?q=%2F? HTTP/1.1", host="example.ORG:080")
    assert sent(head)[0] == b"GET /%7eA//./..;x?q=%2F? HTTP/1.1"
    assert fields_sent(head, b"host") == [b"EXAMPLE.org:080"]
    assert accepted(request("OPTIONS https://A HTTP/1.1", host="a")).scheme == b"https"


@pytest.mark.parametrize("host", ["", "b c", "b/c", "u@b", "b:x"])
def test_an_absolute_target_does_not_make_up_for_an_invalid_host(host):
    assert refused(request("GET http://a/ HTTP/1.1", host=host)) == 400


def test_the_asterisk_is_for_options_alone():
    assert sent(request("OPTIONS * HTTP/1.1"))[0] == b"OPTIONS * HTTP/1.1"
    assert sent(request("OPTIONS http://a HTTP/1.1", host="a"))[0] == b"OPTIONS * HTTP/1.1"
    assert sent(request("OPTIONS http://a/ HTTP/1.1", host="a"))[0] == b"OPTIONS / HTTP/1.1"
    assert refused(request("GET * HTTP/1.1")) == 400
    assert refused(request("POST * HTTP/1.1", "Content-Length: 1")) == 400


# --- method and version ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH", "QUERY"]
)
def test_a_known_method_is_forwarded(method):
    assert sent(request(f"{method} / HTTP/1.1"))[0] == f"{method} / HTTP/1.1".encode()


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("CONNECT a:80 HTTP/1.1", 501),
        ("CONNECT a:80 HTTP/1.0", 501),
        ("TRACE / HTTP/1.1", 405),
        ("SOURCE / HTTP/1.1", 501),
        ("PURGEX / HTTP/1.1", 501),
        ("get / HTTP/1.1", 501),
        ("GETT / HTTP/1.1", 501),
        ("PRI * HTTP/1.1", 501),
        ("PRI * HTTP/2.0", 505),
        ("G@T / HTTP/1.1", 400),
        ("G\xc9T / HTTP/1.1", 400),
        ("GET\t/ HTTP/1.1", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET /  HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2", 400),
    ],
)
def test_a_method_that_is_not_served_is_refused(line, status):
    assert refused(request(line)) == status


@pytest.mark.parametrize(
    "version", ["HTTP/0.9", "HTTP/1.2", "HTTP/2", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9", "HTTP/11", "HTTP/01.1"]
)
def test_another_version_is_refused_with_505(version):
    assert refused(request(f"GET / {version}")) == 505


@pytest.mark.parametrize("version", ["http/1.1", "HTTP", "HTP/1.1", "1.1", "HTTPS/1.1", "\xc8TTP/1.1", "XHTTP/1.1"])
def test_what_is_no_version_is_refused(version):
    assert refused(request(f"GET / {version}")) == 400


def test_the_upstream_is_spoken_to_in_our_own_version():
    assert sent(request("GET / HTTP/1.0"))[0] == b"GET / HTTP/1.1"


# --- heads whose end has not come ------------------------------------------------------------------------------------

WHOLE = request("GET /a?b HTTP/1.1", "A: 1", "B: 2")


@pytest.mark.parametrize("length", range(len(WHOLE)))
@pytest.mark.parametrize("before", [b"", b"\r\n"])
def test_the_beginning_of_a_valid_head_is_waited_for(before, length):
    assert why_hopeless(without_empty_lines((before + WHOLE)[:length]), 1024, 128) is None


@pytest.mark.parametrize(
    "beginning",
    [
        *(
            b"\x16\x03\x01\x02\x00",
            b"\x00",
            b"\xff",
            b"GET\x00",
            b"{",
            b"(",
            b"\r\n\x16\x03",
            b"a:b",
            b"GET\r\n",
            b"GET\rX",
            b"\rX",
            b"\r\r",
            b"\n",
            b"\r\n\n",
        ),
        *(
            b"GET /\r\n",
            b"GET / \r\n",
            b"GET / HTP/1.1\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            b"hello\n",
            b"GET /\n",
        ),
        *(b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nA: 1\n", b"GET / HTTP/1.1\nHost: a\n\n"),
    ],
)
def test_a_beginning_that_cannot_become_valid_is_refused_at_once(beginning):
    refusal = why_hopeless(without_empty_lines(beginning), 1024, 128)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 400


def test_what_is_hopeless_while_incomplete_would_be_refused_when_whole():
    assert isinstance(read(b"GET / HTTP/1.1\nHost: a\n\n\r\n\r\n"), Refusal)


@pytest.mark.parametrize(
    ("beginning", "status"),
    [
        (b"GET /" + b"a" * 156, 414),
        (b"GET /" + b"a" * 156 + b"\n", 414),
        (b"GET /" + b"a" * 155, None),
        (b"GET /" + b"a" * 155 + b"\r", None),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 1024, 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 1024 + b"\n", 431),
        (b"GET / HTTP/1.1\r\nA: \n" + b"b" * 1024, 400),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 1005, None),
    ],
)
def test_the_first_reason_for_a_refusal_is_the_one_that_is_said(beginning, status):
    refusal = why_hopeless(beginning, 1024, 128)
    assert (refusal and refusal.status) == status


@pytest.mark.parametrize(
    ("beginning", "rest"),
    [(b"", b""), (b"\r\n\r\n", b""), (b"\r\n\r", b"\r"), (b"\n\r\n", b"\n\r\n"), (b"\r\nA\r\n", b"A\r\n")],
)
def test_only_whole_empty_lines_are_ignored(beginning, rest):
    assert without_empty_lines(beginning) == rest
