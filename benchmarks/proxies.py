"""The peers, each with one worker and set up for the same work: keep-alive both ways, the same fields added, no log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BODY = "a" * 119
LARGE_BYTES = 1 << 20  # more than the kernel takes for a client that does not read
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
    tls_port: int = 0


@dataclass(frozen=True)
class Target:
    """The upstream both pools use: one server under two ports, and its processes."""

    blue: int
    green: int
    pids: tuple[int, ...] = ()
    certificate: Path | None = None  # PEM: certificate and key in one file, the same for all peers; None: without TLS


def certificate(directory: Path) -> Path:
    """One self-signed certificate, ECDSA on P-256 as certbot makes them."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now, name = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC), x509.Name(())
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("bench.example")]), critical=False)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path = directory / "pair.pem"
    path.write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(pem)
        + key.private_bytes(pem, pkcs8, serialization.NoEncryption())
    )
    return path


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
            location /large {{ sendfile on; alias {large}; }}
            location /form {{ proxy_pass http://127.0.0.1:{blue}/; }}
            listen 127.0.0.1:{blue} backlog=4096; listen 127.0.0.1:{green} backlog=4096;
            location / {{ return 200 "ok"; }}
            location /app/ {{ {fields} return 200 "{BODY}"; }}
        }}"""
    with _nginx(directory / "upstream", core, server, blue) as master:
        yield Target(blue, green, tuple(rig.children(master.pid)), certificate(directory))


@contextmanager
def nginx(directory: Path, core: int, target: Target) -> Iterator[Proxy]:
    port, tls_port, pair = rig.free_port(), rig.free_port(), target.certificate
    tls = f"""
            listen 127.0.0.1:{tls_port} ssl backlog=4096; ssl_certificate {pair}; ssl_certificate_key {pair};
            ssl_protocols TLSv1.2 TLSv1.3; ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;"""
    server = f"""
        upstream pool {{ server 127.0.0.1:{target.blue}; keepalive 256; keepalive_requests 100000000; }}
        server {{
            listen 127.0.0.1:{port} backlog=4096;
            {tls if pair else ""}
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
        yield Proxy("nginx", version, port, tuple(rig.children(master.pid)), tls_port)


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
    port, tls_port = rig.free_port(), rig.free_port()
    config, log = directory / "haproxy.cfg", directory / "log"
    tls = f"bind 127.0.0.1:{tls_port} backlog 4096 ssl crt {target.certificate} alpn http/1.1 ssl-min-ver TLSv1.2"
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
    {tls if target.certificate else ""}
    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
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
        yield Proxy("haproxy", version, port, (process.pid,), tls_port)


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
    if target.certificate:
        pairs = json.dumps([{"cert": str(target.certificate), "key": str(target.certificate)}])
        command = ["env", "BGPROXY_TLS__LISTEN=127.0.0.1:0", f"BGPROXY_TLS__CERTIFICATES={pairs}", *command]
    with rig.running(rig.pinned(core, command), log) as supervisor:
        addresses = state / "addresses.json"
        rig.wait_until(addresses.exists, supervisor, log, "bgproxy")
        found = json.loads(addresses.read_text())
        port = int(found["listen"][0].rpartition(":")[2])
        rig.wait_until(lambda: _forwards(port), supervisor, log, "bgproxy")
        tls_port = int(found["tls"][0].rpartition(":")[2]) if found["tls"] else 0
        yield Proxy(name, _bgproxy_version(python), port, _bgproxy_workers(supervisor.pid), tls_port)


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
