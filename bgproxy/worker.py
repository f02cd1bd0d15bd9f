"""The data plane's composition root: one process that forwards, told what to do on its control socket.

    python -m bgproxy.worker --slot N --segment-fd F --control-fd F --listen-fds F,F [--tls-listen-fds F,F]

It outlives its supervisor: when the control socket closes, it goes on forwarding on the last word, and keeps the
listening sockets of all workers (--kept) for whoever asks on --takeover-fd. It leaves where it was not configured yet
(then nobody knows of it), or was started with --end-with-supervisor.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import signal
import socket
import ssl
import sys
from collections.abc import Sequence

import uvloop

from bgproxy.core.certificates import TlsMaterial
from bgproxy.core.messages import (
    CONFIGURED,
    IDLE_GRACE_S,
    Certified,
    Certify,
    Configure,
    Cut,
    Drain,
    Drained,
    LineSplitter,
    Published,
    Ready,
    Seen,
    TableAccepted,
    ToSupervisor,
    ToWorker,
    decode_to_worker,
    encode,
)
from bgproxy.dataplane.estate import Estate
from bgproxy.dataplane.hold import cut
from bgproxy.dataplane.listener import Listener
from bgproxy.dataplane.plane import DataPlane
from bgproxy.shm import bequest
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.segment import Segment
from bgproxy.tls import openssl
from bgproxy.tls.contexts import Contexts, ignore_names_that_are_no_text


class Worker:
    """Owns the plane and the listener, and answers the supervisor."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        segment: Segment,
        number: int,
        listen_fds: Sequence[int],
        *,
        tls_listen_fds: Sequence[int] = (),
        estate: Estate | None = None,
        end_with_supervisor: bool = False,
    ) -> None:
        self._estate = estate
        self._end_with_supervisor = end_with_supervisor
        self._segment = segment
        self._slot = segment.slots[number]
        self._listen_fds, self._tls_listen_fds = listen_fds, tls_listen_fds
        self._plane = DataPlane(loop, segment, number, self._say)
        self._listener = Listener(self._plane)
        self._control: asyncio.WriteTransport | None = None
        self._loop = loop
        self._ready = False
        self._leaving: asyncio.Task[None] | None = None
        self.finished = asyncio.Event()

    # --- the control socket ------------------------------------------------------------------------------------------

    def connected(self, transport: asyncio.WriteTransport) -> None:
        self._control = transport

    def disconnected(self) -> None:
        self._control = None
        self._plane.held.wait_for_nobody()
        if self._end_with_supervisor or not self._ready:
            self.leave(idle_s=0.0)
        elif self._estate is not None and self._leaving is None:
            self._loop.create_task(self._estate.serve_for_all(self._listener))

    def _say(self, message: ToSupervisor) -> None:
        if self._control is not None:
            self._control.write(encode(message))

    def hear(self, message: ToWorker) -> None:
        match message:
            case Configure(settings=settings, table=table):
                self._plane.configure(settings, table)
                self.look()
                self._say(TableAccepted(table.version))
                if not self._ready:
                    self._ready = True
                    self._loop.create_task(self._start())
            case Certify(material=material):
                self._say(Certified(material.version, self._certify(material)))
            case Published(sequence=sequence, streams=streams):
                self._say(Seen(sequence, self.look()))
                if streams != CONFIGURED:
                    self._plane.farewells.order(streams)
            case Cut(colour=colour, writes=writes):
                cut(self._plane, colour, writes=writes)
            case Drain(timeout_s=timeout_s, idle_s=idle_s):
                self.leave(timeout_s, idle_s)

    def _certify(self, material: TlsMaterial) -> str:
        """Why not, "" where these certificates are in use now. Connections that are open keep the ones they have."""
        try:
            self._plane.certificates = Contexts(material, tune=openssl.tune)
        except (ssl.SSLError, OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def look(self) -> int:
        """Read the live word and say so. No request is between reading the word and being counted: that is one block
        on this same thread, so every later request sees this epoch or a newer one."""
        epoch = self._segment.live.load().epoch
        self._slot.cells[slot.EPOCH_SEEN] = epoch
        self._plane.held.look()
        return epoch

    # --- beginning and end -------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._plane.deadlines.start()
        self.look()
        await self._listener.open(self._listen_fds)
        await self._listener.open(self._tls_listen_fds, tls=True)
        self._slot.cells[slot.PID] = os.getpid()
        gc.collect()
        gc.freeze()  # what is there now stays: no collection looks at it again
        self._say(Seen(0, self.look()))
        self._say(Ready(os.getpid()))

    def leave(self, timeout_s: float | None = None, idle_s: float = IDLE_GRACE_S) -> None:
        """By default with the configured patience, and as one whose work others go on with."""
        if self._leaving is None:
            self._leaving = self._loop.create_task(self._leave(timeout_s, idle_s))

    async def _leave(self, timeout_s: float | None, idle_s: float) -> None:
        if self._ready:
            self._listener.close()
            if self._estate is not None:
                self._estate.close()
            if timeout_s is None:
                timeout_s = self._plane.settings.timeouts.shutdown
            requests, streams = await self._plane.drain(timeout_s, idle_s=idle_s)
            self._say(Drained(requests, streams))
        self.finished.set()


class ControlProtocol(asyncio.Protocol):
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._lines = LineSplitter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._worker.connected(transport)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            self._worker.hear(decode_to_worker(line))

    def connection_lost(self, exc: Exception | None) -> None:
        self._worker.disconnected()


def tune_allocator() -> None:
    """Keep large read buffers out of mmap: uvloop reads 256 KiB at a time, and mapping each anew costs more than the
    copy. Does nothing where the C library has no mallopt."""
    m_trim_threshold, m_mmap_threshold = -1, -3
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(m_mmap_threshold, 1 << 20)
    mallopt(m_trim_threshold, 4 << 20)


async def _serve(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    segment = Segment.attach(arguments.segment_fd)
    worker = Worker(
        loop,
        segment,
        arguments.slot,
        arguments.listen_fds,
        tls_listen_fds=arguments.tls_listen_fds,
        estate=_estate(loop, arguments),
        end_with_supervisor=arguments.end_with_supervisor,
    )
    loop.add_signal_handler(signal.SIGTERM, worker.leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches us too; the supervisor decides
    control = socket.socket(fileno=arguments.control_fd)
    control.setblocking(False)
    await loop.create_unix_connection(lambda: ControlProtocol(worker), sock=control)
    await worker.finished.wait()
    await asyncio.sleep(0.05)  # let the kernel take the last message and the FINs


def _estate(loop: asyncio.AbstractEventLoop, arguments: argparse.Namespace) -> Estate | None:
    if arguments.takeover_fd < 0:
        return None
    own = {*arguments.listen_fds, *arguments.tls_listen_fds}
    return Estate(loop, bequest.decode(arguments.kept), own, arguments.takeover_fd)


def _descriptors(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bgproxy.worker", description="started by the supervisor, not by hand")
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--segment-fd", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--listen-fds", type=_descriptors, required=True)
    parser.add_argument("--tls-listen-fds", type=_descriptors, default=[])
    parser.add_argument("--kept", default='{"heirlooms": []}')
    parser.add_argument("--takeover-fd", type=int, default=-1)
    parser.add_argument("--end-with-supervisor", action="store_true")
    arguments = parser.parse_args(argv)
    tune_allocator()
    ignore_names_that_are_no_text()
    # A request makes no cycles; the young generation need not be looked at every 700 objects.
    gc.set_threshold(50_000, 20, 50)
    uvloop.run(_serve(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
