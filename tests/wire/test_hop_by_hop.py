from __future__ import annotations

import pytest

from bgproxy.wire.hop_by_hop import named_by_connection, passing_trailers


def test_connection_names_further_fields_to_remove():
    assert named_by_connection([b"close", b"x-private", b"keep-alive", b"foo"]) == {b"x-private", b"foo"}


@pytest.mark.parametrize("name", [b"content-length", b"transfer-encoding", b"host", b"te", b"upgrade"])
def test_connection_cannot_remove_what_frames_or_routes_the_message(name):
    assert named_by_connection([name]) == frozenset()


@pytest.mark.parametrize(
    "name",
    [
        *(b"Content-Length", b"Transfer-Encoding", b"Host", b"Authorization", b"Cookie", b"Set-Cookie", b"Trailer"),
        *(
            b"content_length",
            b"X-Forwarded-For",
            b"x_forwarded_proto",
            b"x.forwarded|proto",
            b"X-BG-Epoch",
            b"X-Real-IP",
            b"Connection",
            b"TE",
        ),
    ],
)
def test_a_trailer_that_would_frame_route_or_authenticate_does_not_pass(name):
    assert passing_trailers([(name, b"1")]) == []


def test_other_trailers_pass_in_order_as_they_came():
    trailers = [(b"Grpc-Status", b"0"), (b"Digest", b"x"), (b"Grpc-Status", b"1")]
    assert passing_trailers(trailers) == trailers
