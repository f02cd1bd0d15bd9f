"""An operator's own error pages in the whole house: read once, served by every worker there will ever be."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from bgproxy.errors import EXIT_CONFIG
from tests.support.house import App, Proxy, bgproxy, eventually
from tests.support.raw_http import Message

BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def asked(proxy: Proxy, *fields: str) -> Message:
    client = proxy.client()
    try:
        return client.ask("GET", "/", *fields)
    finally:
        client.close()


@pytest.mark.says("The pages are read at the start")
@pytest.mark.says("It carries the request id")
def test_own_pages_outlive_their_folder_and_their_workers_and_name_what_the_log_has(
    start: Callable[..., Proxy], blue: App, green: App, tmp_path: Path
) -> None:
    pages, log = tmp_path / "pages", tmp_path / "access.log"
    pages.mkdir()
    (pages / "502.html").write_text("<p>Gleich zurück. {{request_id}}</p>")
    env = {
        "BGPROXY_SERVER__ERROR_PAGES": str(pages),
        "BGPROXY_LOG__ACCESS": "json",
        "BGPROXY_LOG__ACCESS_FILE": str(log),
        "BGPROXY_HEALTH__INTERVAL": "1h",  # the pool stays up in the book while its app is gone
    }
    proxy = start(blue, green, env=env, workers=1)
    assert proxy.colour() == "blue"
    blue.end()
    shutil.rmtree(pages)
    (first,) = proxy.worker_pids
    answers = [asked(proxy, BROWSER)]
    os.kill(first, signal.SIGKILL)
    eventually(lambda: proxy.status["workers"]["ready"] == 1 and proxy.worker_pids != [first], "the replacement")
    answers.append(asked(proxy, BROWSER))
    for answer in answers:
        assert (answer.status, answer.one("X-BG-Reason")) == (502, "connect_refused")
        assert answer.body.decode() == f"<p>Gleich zurück. {answer.one('X-Request-ID')}</p>"
    assert json.loads(asked(proxy, "Accept: application/json").body)["code"] == "connect_refused"
    last = answers[-1].one("X-Request-ID")
    eventually(lambda: last in [json.loads(line)["request_id"] for line in log.read_text().splitlines()], "its record")


@pytest.mark.says("A file that is no page")
def test_a_page_that_cannot_be_used_is_said_before_anything_starts(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "502.html").write_text("<h1>{{titel}}</h1>")
    config = tmp_path / "bgproxy.toml"
    config.write_text(
        '[server]\nerror_pages = "pages"\n'
        '[pools.blue]\nupstreams = ["127.0.0.1:1"]\n[pools.green]\nupstreams = ["127.0.0.1:2"]\n'
    )
    for command in (("check", str(config)), ("run", "-c", str(config), "--state-dir", str(tmp_path / "state"))):
        done = bgproxy(*command)
        assert done.returncode == EXIT_CONFIG
        assert f"{config}:2:1: [server] error_pages: '502.html': line 1: unknown placeholder {{{{titel}}}}" in (
            done.stdout + done.stderr
        )
        assert "Traceback" not in done.stderr
