"""The peers, each with one worker and set up for the same work: keep-alive both ways, the same fields added, no log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BODY = "a" * 119
LARGE_BYTES = 4 << 20  # more than the kernel takes for a client that does not read
# With Server, Date, Content-Type, Content-Length and Connection, which nginx sends itself, these make ten.
BROWSER_RESPONSE_FIELDS = {
    "Cache-Control": "private, no-cache, no-store, must-revalidate",
    "ETag": 'W/"5f2b9c1a-77"',
    "Vary": "Accept-Encoding, Cookie",
    "Set-Cookie": "seen=1; Path=/; HttpOnly; SameSite=Lax",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Proxy:
    """A running peer: where it listens and which processes do the forwarding."""

    name: str
    version: str
    port: int
    workers: tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """The upstream both pools use: one server under two ports, and its processes."""

    blue: int
    green: int
    pids: tuple[int, ...] = ()


@contextmanager
def upstream(directory: Path, core: int) -> Iterator[Target]:
    """nginx that answers from memory: the browser-like answer under /app/, a short one elsewhere.

    /large is a file; /form is answered once the whole request body is there, as by an application."""
    blue, green = rig.free_port(), rig.free_port()
    fields = "\n".join(f"add_header {name} '{value}';" for name, value in BROWSER_RESPONSE_FIELDS.items())
    large = directory / "large"
    large.write_bytes(bytes(LARGE_BYTES))
    server = f"""
        server {{
            location /large {{ alias {large}; }}
            location /form {{ proxy_pass http://127.0.0.1:{blue}/; }}
            listen 127.0.0.1:{blue} backlog=4096; listen 127.0.0.1:{green} backlog=4096;
            location / {{ return 200 "ok"; }}
            location /app/ {{ {fields} return 200 "{BODY}"; }}
        }}"""
    with _nginx(directory / "upstream", core, server, blue) as master:
        yield Target(blue, green, tuple(rig.children(master.pid)))


@contextmanager
def nginx(directory: Path, core: int, target: Target) -> Iterator[Proxy]:
    port = rig.free_port()
    server = f"""
        upstream pool {{ server 127.0.0.1:{target.blue}; keepalive 256; keepalive_requests 100000000; }}
        server {{
            listen 127.0.0.1:{port} backlog=4096;
            location / {{
                proxy_pass http://pool;
                proxy_http_version 1.1;
                proxy_set_header Connection "";
                proxy_set_header Host $http_host;
                proxy_set_header X-Forwarded-For $remote_addr;
                proxy_set_header X-Forwarded-Proto $scheme;
                proxy_set_header X-Forwarded-Host $http_host;
                proxy_set_header Via "1.1 bgproxy";
                proxy_set_header X-Request-ID $request_id;
            }}
        }}"""
    with _nginx(directory / "nginx", core, server, port) as master:
        version = rig.first_line([rig.tool("nginx"), "-v"]).rpartition("/")[2]
        yield Proxy("nginx", version, port, tuple(rig.children(master.pid)))


@contextmanager
def _nginx(directory: Path, core: int, server: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    directory.mkdir()
    config = directory / "nginx.conf"
    temporary = "\n".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(f"""
        daemon off; worker_processes 1; worker_rlimit_nofile 16384;
        pid {directory}/pid; error_log {directory}/error.log;
        {"user root;" if os.geteuid() == 0 else ""}
        events {{ worker_connections 8192; }}
        http {{
            access_log off; {temporary}
            keepalive_requests 100000000; keepalive_timeout 75s; default_type text/plain;
            {server}
        }}""")
    log = directory / "log"
    command = rig.pinned(
        core, [rig.tool("nginx"), "-e", f"{directory}/error.log", "-p", str(directory), "-c", str(config)]
    )
    with rig.running(command, log) as master:
        rig.wait_until(lambda: rig.answers(port) and bool(rig.children(master.pid)), master, log, "nginx")
        yield master


@contextmanager
def haproxy(directory: Path, core: int, target: Target) -> Iterator[Proxy]:
    directory = directory / "haproxy"
    directory.mkdir()
    port = rig.free_port()
    config, log = directory / "haproxy.cfg", directory / "log"
    config.write_text(f"""
global
    nbthread 1
    maxconn 8000
defaults
    mode http
    timeout connect 2s
    timeout client 75s
    timeout server 60s
    timeout http-keep-alive 75s
    http-reuse always
    option forwardfor
frontend clients
    bind 127.0.0.1:{port} backlog 4096
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header Via "1.1 bgproxy"
    http-request set-header X-Request-ID %[uuid()]
    default_backend pool
backend pool
    server one 127.0.0.1:{target.blue}
""")
    command = rig.pinned(core, [rig.tool("haproxy"), "-db", "-f", str(config)])
    with rig.running(command, log) as process:
        rig.wait_until(lambda: rig.answers(port), process, log, "haproxy")
        version = rig.first_line([rig.tool("haproxy"), "-v"]).split()[2].partition("-")[0]
        yield Proxy("haproxy", version, port, (process.pid,))


def bgproxy(directory: Path, core: int, target: Target) -> AbstractContextManager[Proxy]:
    """On the interpreter that runs this benchmark."""
    return _bgproxy("bgproxy", sys.executable, directory, core, target)


def bgproxy_debian(directory: Path, core: int, target: Target) -> AbstractContextManager[Proxy]:
    """On the distribution's own interpreter, which like its nginx and HAProxy is compiled with optimisation."""
    return _bgproxy("bgproxy-debian", rig.distribution_python(), directory, core, target)


@contextmanager
def _bgproxy(name: str, python: str, directory: Path, core: int, target: Target) -> Iterator[Proxy]:
    """The whole thing: supervisor, health checks, admin, one worker. Only the worker forwards, only it is counted."""
    directory = directory / name
    directory.mkdir()
    state, log = directory / "state", directory / "log"
    command = [python, "-m", "bgproxy", "run", "--workers", "1", "--state-dir", str(state)]
    command += ["--blue", f"127.0.0.1:{target.blue}", "--green", f"127.0.0.1:{target.green}"]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with rig.running(rig.pinned(core, command), log) as supervisor:
        addresses = state / "addresses.json"
        rig.wait_until(addresses.exists, supervisor, log, "bgproxy")
        found = json.loads(addresses.read_text())
        port = int(found["listen"][0].rpartition(":")[2])
        rig.wait_until(lambda: _forwards(port), supervisor, log, "bgproxy")
        yield Proxy(name, _bgproxy_version(python), port, _bgproxy_workers(supervisor.pid))


def _forwards(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _bgproxy_workers(supervisor: int) -> tuple[int, ...]:
    workers = [
        pid
        for pid in rig.children(supervisor)
        if b"bgproxy.worker" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]
    if len(workers) != 1:
        raise rig.RigError(f"expected one bgproxy worker under process {supervisor}, found {workers}")
    return tuple(workers)


def _bgproxy_version(python: str) -> str:
    show = "import bgproxy, platform; print(bgproxy.__version__, f'(Python {platform.python_version()})')"
    done = subprocess.run(
        [python, "-c", show],
        capture_output=True,
        text=True,
        check=True,
        cwd=rig.ROOT,
    )
    return done.stdout.strip()


PEERS: dict[str, Callable[[Path, int, Any], AbstractContextManager[Proxy]]] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "bgproxy": bgproxy,
    "bgproxy-debian": bgproxy_debian,
}
