"""Strategies that make heads out of valid, odd and broken pieces, so that many get through and many just fail to."""

from __future__ import annotations

from hypothesis import strategies as st

GOOD_METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"DELETE", b"PATCH", b"PROPFIND"]
BAD_METHODS = [b"TRACE", b"CONNECT", b"PRI", b"get", b"G(T", b"", b"GET "]
GOOD_TARGETS = [
    b"/",
    b"/a?b=c",
    b"//x",
    b"/%00;a",
    b"/.a/..?\\",
    b"/a|b",
    b"http://a.example/x?y",
    b"http://b:80",
    b"https://[::1]?q",
]
BAD_TARGETS = [b"*", b"http://u@b/", b"http:///", b"a:80", b"/#", b"/a b", b"/\xe9", b"", b"/..", b"/\\", b"/a%00"]
GOOD_VERSIONS = [b"HTTP/1.1"] * 4 + [b"HTTP/1.0"]
BAD_VERSIONS = [b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b""]
HOST_NAMES = b"a.example", b"b:80", b"[::1]"
HOSTS = [b"Host: a.example", b"host: b:80", b"HOST:[::1]"]
FRAMINGS = [
    *(b"Content-Length: 0", b"Content-Length: 5", b"content-length:007", b"Transfer-Encoding: chunked"),
    *(b"transfer-encoding: CHUNKED", b"Content_Length: 9", b"Transfer_Encoding: chunked"),
]
HOPS = [
    *(b"Connection: keep-alive", b"connection: Keep-Alive", b"Connection: close", b"Connection: Upgrade"),
    *(b"Connection: upgrade, X-A, content-length", b"Connection: host, ,te, Transfer-Encoding", b"Upgrade: websocket"),
    *(b"Upgrade: h2c", b"Upgrade: a, b", b"Upgrade: foo", b"HTTP2-Settings: AA", b"TE: trailers", b"TE: gzip"),
    *(b"Expect: 100-continue", b"Expect:", b"Keep-Alive: 5", b"Proxy-Connection: close", b"Ho_st: x"),
]
CLAIMS = [
    *(b"X-Forwarded-For: 6.6.6.6", b"x_forwarded_for: 6.6.6.6", b"Forwarded: for=6", b"X-Real-IP: 6", b"X-BG-Epoch: 6"),
    *(b"X-Request-ID: mine", b"x_request_id: mine", b"X-Forwarded_Host: six"),
]
PLAIN = [b"Accept: */*", b"X-A: 1", b"Cookie: a=b; c=\xe9", b"Empty:", b"X-Long: " + b"a" * 300, b"Via: 1.0 x"]
BAD_FIELDS = [
    *(b"Host: a b", b"Host:", b"Content-Length: +5", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: x"),
    *(b"Transfer-Encoding: ,chunked", b"Expect: 200-ok", b"No colon", b"A : 1", b" A: 1", b"A: \x00", b"A: 1\nB: 2"),
    *(b"A: 1\r\n B", b"\xe9: 1", b": 1"),
]
FIELDS = [*HOSTS, *FRAMINGS, *HOPS, *CLAIMS, *PLAIN, *BAD_FIELDS]


def lines(first: st.SearchStrategy[bytes], fields: st.SearchStrategy[list[bytes]]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda line, rest: b"\r\n".join([line, *rest]) + b"\r\n\r\n", first, fields)


def pieces(*choices: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda *words: b" ".join(words), *map(st.sampled_from, choices))


def some(choices: list[bytes], most: int) -> st.SearchStrategy[list[bytes]]:
    return st.lists(st.sampled_from(choices), max_size=most)


@st.composite
def shuffled(draw: st.DrawFn, *parts: st.SearchStrategy[list[bytes]]) -> list[bytes]:
    return draw(st.permutations([field for part in parts for field in draw(part)]))


good_lines = pieces(GOOD_METHODS, GOOD_TARGETS, GOOD_VERSIONS)
odd_lines = pieces(GOOD_METHODS + BAD_METHODS, GOOD_TARGETS + BAD_TARGETS, GOOD_VERSIONS + BAD_VERSIONS)
one_host = st.sampled_from(HOSTS).map(lambda host: [host])
good_fields = shuffled(one_host, some(FRAMINGS, 1), some(HOPS, 2), some(PLAIN + CLAIMS, 2))
upgrades = st.just([b"Host: a.example", b"Connection: Upgrade", b"Upgrade: websocket"])
keeping_alive = st.permutations([b"Host: a.example", b"Connection: keep-alive", b"Accept: */*"])
good_requests = lines(
    good_lines, st.one_of(good_fields, good_fields, shuffled(upgrades, some(FIELDS, 2)), keeping_alive)
)
# A first line that goes on in the next, and fields that come twice, empty or not.
broken_lines = pieces(GOOD_METHODS, [b"/\r\nA:", b"/\r\nHost:", b"\r\nA: /"], GOOD_VERSIONS)
twice = st.permutations([b"Host:", b"Host: a.example", b"Connection: keep-alive"])
doubtful_requests = lines(st.one_of(good_lines, broken_lines), st.one_of(twice, one_host))
odd_requests = lines(odd_lines, st.one_of(some(FIELDS, 5), good_fields))
preceded = st.builds(bytes.__add__, st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\n\n", b" "]), good_requests)


@st.composite
def damaged(draw: st.DrawFn, heads: st.SearchStrategy[bytes]) -> bytes:
    """A head with a few bytes put in, taken out or changed, before its end."""
    head = bytearray(draw(heads)[:-4])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(head)))
        insert = draw(
            st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b"_", b"\xff", b"5", b"\x0b"])
        )
        head[at : at + draw(st.integers(0, 2))] = insert
    whole = bytes(head).replace(b"\r\n\r\n", b"\r\n") + b"\r\n\r\n"
    return whole[: whole.find(b"\r\n\r\n") + 4]


request_heads = st.one_of(
    good_requests, good_requests, odd_requests, doubtful_requests, preceded, damaged(good_requests)
)

GOOD_STATUS_LINES = [
    *(b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not Found", b"HTTP/1.0 200 OK", b"HTTP/1.1 200") * 3,
    *(b"HTTP/1.1 204 X", b"HTTP/1.1 304 X", b"HTTP/1.1 103 X", b"HTTP/1.1 101 X", b"HTTP/1.1 200 \xe9\t!"),
]
BAD_STATUS_LINES = [b"HTTP/2 200 OK", b"HTTP/1.1 2000 X", b"HTTP/1.1 200OK", b"HTTP/1.1 200 \0", b"ICY 200 OK", b""]
good_answer_fields = shuffled(some(FRAMINGS, 1), some(HOPS, 2), some(PLAIN + CLAIMS, 3))
good_responses = lines(st.sampled_from(GOOD_STATUS_LINES), good_answer_fields)
odd_responses = lines(st.sampled_from(GOOD_STATUS_LINES + BAD_STATUS_LINES), some(FIELDS, 4))
response_heads = st.one_of(good_responses, good_responses, good_responses, odd_responses, damaged(good_responses))
