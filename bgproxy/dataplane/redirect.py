"""Plain HTTP where everything else is https: every request is answered with where to go, none is forwarded."""

from __future__ import annotations

import re

from bgproxy.core.certificates import host_of
from bgproxy.dataplane.downstream import Downstream
from bgproxy.dataplane.linger import linger
from bgproxy.shm import worker_slot as slot
from bgproxy.wire.replies import redirection
from bgproxy.wire.request import ReadRequest, Refusal, RequestHead

_PORT = re.compile(rb":[0-9]*$")


class Redirector(Downstream):
    """308, which keeps the method, and the end of the connection: the next request belongs elsewhere anyway.

    Only to names that a certificate covers, or anybody's Host would become anybody's redirect.
    """

    __slots__ = ()

    def handle(self, data: bytes) -> None:
        if self.closing:
            return
        if self._buffer:
            data = self._buffer + data
        self._read_head(data, data.find(b"\r\n\r\n") + 4)

    def _begin_judged(self, request: ReadRequest, head: bytes) -> None:
        if isinstance(request, Refusal):
            self.refuse(request, request_head=head)
        elif not request.host:
            self.refuse(Refusal(400, "bad_request", "a request needs a Host field"), request_head=head)
        elif self._plane.certificates is None or not self._plane.certificates.covers(host_of(request.host)):
            refusal = Refusal(421, "no_certificate", "this proxy does not speak for the host that was asked for")
            self.refuse(refusal, request_head=head)
        else:
            self._send_to_https(request)

    def _send_to_https(self, request: RequestHead) -> None:
        plane = self._plane
        plane.cells[slot.REDIRECTS] += 1
        self._buffer = b""
        with_body = request.method != b"HEAD"
        location = self._location(request)
        self.write(redirection(308, location, date=plane.http_date, with_body=with_body))
        linger(plane, self)

    def _location(self, request: RequestHead) -> bytes:
        port = self._plane.settings.https.redirect_port
        host = _PORT.sub(b"", request.host).lower()
        target = b"/" if request.target == b"*" else request.target  # visible ASCII: llhttp lets nothing else through
        return b"https://%b%b%b" % (host, b"" if port == 443 else b":%d" % port, target)
