"""What a request loses on its way to the upstream, and what it can't. RFC 9110 sections 7.6.1, 7.8 and 10.1.1."""

from __future__ import annotations

import pytest

from tests.support.heads import OWN_ID, PEER, accepted, fields_sent, refused, request, sent

GET = "GET / HTTP/1.1"


def names_sent(head: bytes) -> set[bytes]:
    return {line.partition(b":")[0].lower() for line in sent(head)[1:]}


ALWAYS = names_sent(request(GET))


@pytest.mark.parametrize(
    "field",
    [
        *("Connection: close", "Connection: keep-alive", "Connection:", "Connection: , ,", "Keep-Alive: timeout=5"),
        *("Proxy-Connection: keep-alive", "TE: gzip", "Upgrade: websocket", "HTTP2-Settings: AAA", "Keep_Alive: 5"),
        *("Proxy_Connection: close", "http2_settings: x", "Expect:"),
    ],
)
def test_a_field_for_this_hop_goes_no_further(field):
    assert names_sent(request(GET, "A: 1", field, "B: 2")) == ALWAYS | {b"a", b"b"}


@pytest.mark.parametrize(
    "connections",
    [["X-Private, X-Other"], ["x-private", "CLOSE , X-OTHER"], [",X-Private,,", "keep-alive,\tx-other\t"]],
)
def test_connection_removes_the_fields_it_names(connections):
    head = request(
        GET, "X-Private: 1", *(f"Connection: {c}" for c in connections), "X-Other: 2", "X-Kept: 3", "x-private: 4"
    )
    assert names_sent(head) == ALWAYS | {b"x-kept"}


@pytest.mark.parametrize("name", ["Transfer-Encoding", "X-Forwarded-For", "X-Forwarded-Host", "Via"])
@pytest.mark.parametrize("body", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_connection_cannot_remove_what_frames_routes_or_is_ours(name, body):
    with_option = request("POST / HTTP/1.1", body, f"Connection: {name}, close")
    assert sorted(sent(with_option)) == sorted(sent(request("POST / HTTP/1.1", body)))
    assert accepted(with_option).body == accepted(request("POST / HTTP/1.1", body)).body


@pytest.mark.parametrize("options", ["Host", "close, content-length", "a,HOST"])
def test_connection_may_not_name_what_frames_or_routes(options):
    assert refused(request("POST / HTTP/1.1", "Content-Length: 5", f"Connection: {options}")) == 400


@pytest.mark.parametrize(
    "name",
    [
        *(
            "X-Forwarded-For",
            "x-forwarded-for",
            "X_Forwarded_For",
            "X.Forwarded*For",
            "X-Forwarded_For",
            "X-Forwarded-Proto",
            "X-Forwarded-Host",
        ),
        *("X-Forwarded-Port", "X-Forwarded-Prefix", "Forwarded", "X-Real-IP", "X_Real_IP", "X-BG-Epoch", "X_BG_Colour"),
        *("X-BG-", "X_Request_ID"),
    ],
)
def test_what_a_client_says_about_its_way_is_kept_apart(name):
    head = request(GET, f"{name}: spoofed", "A: 1")
    assert not any(b"spoofed" in line for line in sent(head))
    assert fields_sent(head, b"x-forwarded-for") == [PEER]
    assert fields_sent(head, b"x-request-id") == [OWN_ID]
    found = accepted(head).found
    assert found is not None
    assert found[name.lower().encode()] == [b"spoofed"]


@pytest.mark.parametrize("name", ["X-Request-ID", "x-request-id", "X-ReQuEsT-iD", "X_Request_ID"])
@pytest.mark.parametrize("more", [(), ("Connection: close",)], ids=["plain", "judged"])
def test_the_id_that_came_is_kept_apart_and_a_look_alike_is_none(name, more):
    head = request(GET, f"{name}: theirs", *more)
    assert accepted(head).given_id == (b"" if "_" in name else b"theirs")
    assert fields_sent(head, b"x-request-id") == [OWN_ID]


@pytest.mark.parametrize(
    ("te", "passed"), [("trailers", True), ("gzip, Trailers", True), ("gzip", False), ("trailersx", False)]
)
def test_of_te_only_trailers_is_passed_on(te, passed):
    head = request(GET, f"TE: {te}", "Connection: TE")
    assert fields_sent(head, b"te") == ([b"trailers"] if passed else [])
    assert fields_sent(head, b"connection") == ([b"TE"] if passed else [])


# --- keep-alive -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        ("1.1", None, True),
        ("1.1", "keep-alive", True),
        ("1.1", "close", False),
        ("1.1", "foo, CLOSE", False),
        ("1.1", "keep-alive, close", False),
        ("1.0", None, False),
        ("1.0", "keep-alive", True),
        ("1.0", "Keep-Alive, foo", True),
        ("1.0", "close, keep-alive", False),
    ],
)
def test_the_connection_stays_as_its_version_and_options_say(version, connection, stays):
    fields = [f"Connection: {connection}"] if connection else []
    assert accepted(request(f"GET / HTTP/{version}", *fields)).keep_alive is stays
    assert accepted(request(f"GET / HTTP/{version}", *fields, "Host: a", host=None)).keep_alive is stays


def test_one_close_among_several_connection_lines_is_enough():
    assert not accepted(request(GET, "Connection: keep-alive", "Connection: close")).keep_alive


# --- upgrades ---------------------------------------------------------------------------------------------------------


def test_a_websocket_upgrade_is_offered_to_the_upstream():
    head = request(GET, "Upgrade: WebSocket", "Connection: keep-alive, Upgrade", "Sec-WebSocket-Key: x")
    assert accepted(head).upgrade == b"websocket"
    assert fields_sent(head, b"upgrade") == [b"websocket"]
    assert fields_sent(head, b"connection") == [b"Upgrade"]
    assert fields_sent(head, b"sec-websocket-key") == [b"x"]


@pytest.mark.parametrize("body", ["Content-Length: 5", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("protocol", ["websocket", "h2c", "x"])
def test_an_upgrade_with_a_body_is_served_as_the_request_it_also_is(method, body, protocol):
    fields = "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAA"
    head = request(f"{method} / HTTP/1.1", *fields, body)
    assert accepted(head).upgrade == b""
    assert sorted(sent(head)) == sorted(sent(request(f"{method} / HTTP/1.1", body)))


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (GET, ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAA")),
        (GET, ("Connection: Upgrade", "Upgrade: TLS/1.0")),
        (GET, ("Upgrade: websocket",)),
        (GET, ("Connection: keep-alive", "Upgrade: websocket")),
        (GET, ("Connection: Upgrade",)),
        (GET, ("Connection: Upgrade", "Upgrade: foo, bar")),
        ("POST / HTTP/1.1", ("Connection: Upgrade", "Upgrade: websocket")),
        ("GET / HTTP/1.0", ("Connection: Upgrade", "Upgrade: websocket")),
    ],
)
def test_an_upgrade_that_is_not_offered_leaves_no_trace(line, fields):
    assert accepted(request(line, *fields)).upgrade == b""
    assert names_sent(request(line, *fields)) == ALWAYS


def test_an_upgrade_with_an_empty_body_is_still_one():
    assert (
        accepted(request(GET, "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0")).upgrade == b"websocket"
    )


# --- expectations -----------------------------------------------------------------------------------------------------


def test_an_expectation_before_a_body_is_passed_on():
    head = request("POST / HTTP/1.1", "Expect: 100-Continue", "Content-Length: 5")
    assert accepted(head).expects_continue
    assert fields_sent(head, b"expect") == [b"100-continue"]


@pytest.mark.parametrize(
    ("line", "fields"),
    [("GET / HTTP/1.1", ()), ("POST / HTTP/1.1", ("Content-Length: 0",)), ("POST / HTTP/1.0", ("Content-Length: 5",))],
)
def test_an_expectation_of_http_1_0_or_without_a_body_is_ignored(line, fields):
    head = request(line, "Expect: 100-continue", *fields)
    assert not accepted(head).expects_continue
    assert fields_sent(head, b"expect") == []


@pytest.mark.parametrize(
    "value", ["200-ok", "100-continuex", "y 100-continue", "100-continue, 100-continue", "100-continue;a"]
)
def test_any_other_expectation_is_refused_with_417(value):
    assert refused(request("POST / HTTP/1.1", f"Expect: {value}", "Content-Length: 5")) == 417


# --- Via --------------------------------------------------------------------------------------------------------------


def test_our_via_comes_last_wherever_the_others_stand():
    theirs = [b"1.0 fred", b"1.1 p.example (Apache/1.1), 1.1 second"]
    for fields in (["Via: 1.0 fred", "A: 1"], ["A: 1", "VIA:  1.0 fred "], ["Connection: via", "Via: 1.0 fred"]):
        head = request(GET, *fields, "via: 1.1 p.example (Apache/1.1), 1.1 second", "B: 2")
        assert fields_sent(head, b"via") == [*theirs, b"1.1 bgproxy"]
    assert fields_sent(request(GET), b"via") == [b"1.1 bgproxy"]


# --- Max-Forwards -----------------------------------------------------------------------------------------------------

OPTIONS = "OPTIONS * HTTP/1.1"


@pytest.mark.parametrize(
    ("came", "left"),
    [
        *(("1", b"0"), ("2", b"1"), ("10", b"9"), ("007", b"6"), ("255 ", b"254"), ("\t5\t", b"4")),
        *(
            ("999999999", b"999999998"),
            ("1000000001", b"999999999"),
            ("9" * 18, b"999999999"),
            ("9" * 99, b"999999999"),
        ),
    ],
)
def test_a_request_about_the_way_has_one_hop_less_behind_us(came, left):
    for fields in (
        [f"max-forwards:{came}", "A: 1"],
        ["A: 1", f"Max-Forwards: {came}"],
        ["TE: gzip", f"Max-Forwards: {came}"],
    ):
        assert fields_sent(request(OPTIONS, *fields), b"max-forwards") == [left]


@pytest.mark.parametrize("value", ["0", "00", " 0 ", "0" * 30])
def test_where_no_hop_is_left_the_answer_is_ours(value):
    assert refused(request(OPTIONS, f"Max-Forwards:{value}")) == 200
    assert refused(request("OPTIONS /path HTTP/1.1", f"MAX-FORWARDS: {value}")) == 200


@pytest.mark.parametrize("value", ["", "-1", "+1", "1.0", "0x1", "1, 1", "1 1", "one", "\xb2", "1;a"])
def test_a_number_of_hops_that_is_none_is_refused(value):
    assert refused(request(OPTIONS, f"Max-Forwards: {value}")) == 400


def test_two_numbers_of_hops_are_refused():
    assert refused(request(OPTIONS, "Max-Forwards: 5", "Max-Forwards: 5")) == 400
    assert refused(request(OPTIONS, "Max-Forwards: 5", "TE: gzip", "max-forwards: 0")) == 400


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PROPFIND"])
def test_for_any_other_method_the_number_of_hops_is_an_ordinary_field(method):
    for value in ("0", "5", "x"):
        assert fields_sent(request(f"{method} / HTTP/1.1", f"Max-Forwards: {value}"), b"max-forwards") == [
            value.encode()
        ]


def test_what_only_looks_like_a_number_of_hops_is_left_alone():
    names = ("X-Max-Forwards: 0", "Max-Forwards-X: 0", "Max_Forwards: 0", "Via: 1.1 a; Max-Forwards: 0")
    assert set(map(str.encode, names)) <= set(sent(request(OPTIONS, *names)))


def test_a_refused_trace_does_not_depend_on_its_number_of_hops():
    assert {refused(request("TRACE / HTTP/1.1", f"Max-Forwards: {n}")) for n in (0, 1, "x")} == {405}
