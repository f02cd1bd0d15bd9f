"""A worker without a data plane: speaks the control messages, writes its slot, answers every request with what it is.

What it does wrong is read at its start from the file named by `--modes`: a JSON object from slot number to mode.
The body of its answers is `EPOCH COLOUR PID`.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import socket
import sys
import threading
import time

from bgproxy.core import messages
from bgproxy.core.messages import (
    Certified,
    Certify,
    Configure,
    Cut,
    Drain,
    Drained,
    Ejected,
    Published,
    Ready,
    Seen,
    TableAccepted,
)
from bgproxy.shm import worker_slot
from bgproxy.shm.segment import Segment


class FakeWorker:
    def __init__(self, slot: int, segment: Segment, control: socket.socket, listeners: list[socket.socket], mode: str):
        self.cells = segment.slots[slot].cells
        self.segment, self.control, self.listeners, self.mode = segment, control, listeners, mode
        self.stopping = threading.Event()
        self.tables = 0
        self.say_lock = threading.Lock()

    def say(self, message: messages.ToSupervisor) -> None:
        with self.say_lock:
            self.control.sendall(messages.encode(message))

    def run(self) -> int:
        if self.mode == "crash":
            return 3
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self.mode != "ignore-sigterm":
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.cells[worker_slot.PID] = os.getpid()
        threading.Thread(target=self.beat, daemon=True).start()
        splitter = messages.LineSplitter()
        while data := self.control.recv(65536):
            for line in splitter.feed(data):
                self.take(messages.decode_to_worker(line))
        self.stopping.wait()  # the supervisor is gone: go on serving
        return 0

    def take(self, message: messages.ToWorker) -> None:
        match message:
            case Configure():
                self.configure(message)
            case Published(sequence):
                self.published(sequence)
            case Cut(colour=colour):
                if self.mode != "ignores-cut":
                    self.cells[worker_slot.IN_FLIGHT + colour] = 0
            case Drain():
                self.drain()
            case Certify(material=material):
                self.say(Certified(material.version, "cannot" if self.mode == "no-certificates" else ""))

    def configure(self, message: Configure) -> None:
        if self.mode == "never-ready" or (self.mode == "takes-one-table" and self.tables):
            return
        self.tables += 1
        self.cells[worker_slot.TABLE_VERSION] = message.table.version
        self.see()
        self.say(TableAccepted(message.table.version))
        for listener in self.listeners if self.tables == 1 else ():
            threading.Thread(target=self.accept, args=(listener,), daemon=True).start()
        self.say(Ready(os.getpid()))
        if self.mode == "ejects":
            self.say(Ejected(1, 0, 5, 60.0, "connection refused"))
        if self.mode == "rubbish":
            self.control.sendall(b"rubbish\n")
        if self.mode == "hang-up":
            self.control.shutdown(socket.SHUT_RDWR)
        if self.mode == "busy":
            self.cells[worker_slot.IN_FLIGHT + self.segment.live.load().colour] = 3

    def see(self) -> int:
        epoch = self.segment.live.load().epoch
        self.cells[worker_slot.EPOCH_SEEN] = epoch
        return epoch

    def published(self, sequence: int) -> None:
        if self.mode == "silent":
            return
        if self.mode == "dies-on-publish":
            os._exit(1)
        if self.mode == "stops-on-publish":
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        self.say(Seen(sequence, self.see()))

    def drain(self) -> None:
        if self.mode == "ignores-drain":
            return
        self.say(Drained(2, 1) if self.mode == "cuts" else Drained(0, 0))
        os._exit(0)

    def beat(self) -> None:
        while self.mode != "no-heartbeat":
            self.cells[worker_slot.HEARTBEAT_NS] = time.monotonic_ns()
            time.sleep(0.05)

    def accept(self, listener: socket.socket) -> None:
        listener.setblocking(True)
        while True:
            connection, _ = listener.accept()
            with connection:
                request = b""
                while b"\r\n\r\n" not in request and (data := connection.recv(65536)):
                    request += data
                live = self.segment.live.load()
                body = f"{live.epoch} {live.colour.label} {os.getpid()}\n"
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                connection.sendall((head + body).encode())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--modes")
    parser.add_argument("--slot", type=int)
    parser.add_argument("--segment-fd", type=int)
    parser.add_argument("--control-fd", type=int)
    parser.add_argument("--listen-fds")
    parser.add_argument("--kept")
    parser.add_argument("--takeover-fd", type=int)
    options = parser.parse_args()
    modes = pathlib.Path(options.modes)
    mode = json.loads(modes.read_text()).get(str(options.slot), "") if modes.exists() else ""
    return FakeWorker(
        options.slot,
        Segment.attach(options.segment_fd),
        socket.socket(fileno=options.control_fd),
        [socket.socket(fileno=int(fd)) for fd in options.listen_fds.split(",") if fd],
        mode,
    ).run()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
