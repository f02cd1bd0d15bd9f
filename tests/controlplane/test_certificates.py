"""Certificates that change under a running supervisor: taken whole, refused whole, and nothing in between."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bgproxy.config.certificates import PairFiles, Tls
from bgproxy.controlplane.certificates import Certificates
from bgproxy.core.certificates import TlsMaterial
from bgproxy.errors import StartupError
from tests.support.certificates import authority, issue, write_pair
from tests.support.proxies import eventually

WORKS = (sys.executable, "-c", "import sys; sys.stdin.buffer.read()")
FAILS = (sys.executable, "-c", "import os; os.abort()")


class Watched:
    """A pair on disk, and what the supervisor makes of it."""

    def __init__(self, directory: Path, **more: Any) -> None:
        self.cert, self.key, self.ca = directory / "cert.pem", directory / "key.pem", directory / "ca.pem"
        self.write("a.example")
        self.told: list[TlsMaterial] = []
        self.events: list[tuple[str, dict[str, object]]] = []
        files = (PairFiles(cert=self.cert, key=self.key),)
        if more.pop("with_client_ca", False):
            authority().cert_pem.write_to_path(str(self.ca))
            tls = Tls(certificates=files, client_auth="optional", client_ca=self.ca)
        else:
            tls = Tls(certificates=files)
        options: dict[str, Any] = {"trial": WORKS, "poll_s": 0.02} | more
        self.certificates = Certificates(tls, emit=self._emit, **options)
        self.certificates.tell = self.told.append

    def _emit(self, event: str, /, **fields: object) -> None:
        self.events.append((event, fields))

    def write(self, *names: str) -> None:
        write_pair(issue(*names), self.cert, self.key)

    def named(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.events if name == event]

    @property
    def names(self) -> tuple[str, ...]:
        return self.told[-1].pairs[0].names


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    started: list[Watched] = []

    async def start(**more: Any) -> Watched:
        started.append(Watched(tmp_path, **more))
        await started[-1].certificates.start()
        return started[-1]

    yield start
    for each in started:
        await each.certificates.stop()


async def test_workers_are_told_at_the_start_and_again_when_the_files_change(watched):
    files = await watched()
    assert files.names == ("a.example",)
    files.write("b.example")
    await eventually(lambda: files.names == ("b.example",))
    assert [material.version for material in files.told] == [1, 2]
    assert files.told[0].ticket_keys == files.told[1].ticket_keys, "sessions go on"
    (event,) = files.named("tls_reloaded")
    assert event == {"version": 2, "certificates": [str(files.cert)]}
    assert files.certificates.reloads == {"ok": 1, "refused": 0}


async def test_a_link_that_is_moved_is_a_change(watched, tmp_path):
    files = await watched()
    for name in ("cert", "key"):
        os.rename(tmp_path / f"{name}.pem", tmp_path / f"{name}1.pem")
        os.symlink(f"{name}1.pem", tmp_path / f"{name}.pem")
    write_pair(issue("b.example"), tmp_path / "cert2.pem", tmp_path / "key2.pem")
    for name in ("cert", "key"):
        os.symlink(f"{name}2.pem", tmp_path / "new")
        os.replace(tmp_path / "new", tmp_path / f"{name}.pem")
    await eventually(lambda: files.names == ("b.example",))


async def test_half_a_change_is_refused_once_and_the_other_half_makes_it_good(watched, monkeypatch):
    files = await watched()
    looks = itertools.count(1)
    look, looked = files.certificates._look, [0]

    def counted() -> Any:
        looked[0] = next(looks)
        return look()

    monkeypatch.setattr(files.certificates, "_look", counted)
    new = issue("b.example")
    files.cert.write_bytes(b"".join(blob.bytes() for blob in new.cert_chain_pems))
    await eventually(lambda: files.named("tls_reload_refused"))
    until = looked[0] + 3
    await eventually(lambda: looked[0] >= until)
    (refused,) = files.named("tls_reload_refused")
    assert "does not belong to" in refused["reason"]
    assert files.certificates.report()["last_refused"]["reason"] == refused["reason"]
    assert len(files.told) == 1, "the last good set stays"
    files.key.write_bytes(new.private_key_pem.bytes())
    await eventually(lambda: files.names == ("b.example",))
    assert files.certificates.report()["last_refused"] is None
    assert files.certificates.reloads == {"ok": 1, "refused": 1}


async def test_files_that_vanish_are_refused_and_come_back(watched):
    files = await watched()
    files.key.unlink()
    await eventually(lambda: files.named("tls_reload_refused"))
    files.write("b.example")
    await eventually(lambda: files.names == ("b.example",))


async def test_another_look_can_be_asked_for(watched):
    files = await watched(poll_s=3600.0)
    files.write("b.example")
    files.certificates.reload()
    await eventually(lambda: files.names == ("b.example",))


async def test_a_set_can_be_prepared_and_is_used_only_when_it_is_said(watched):
    files = await watched(poll_s=3600.0)
    files.write("b.example")
    tls = msgspec.structs.replace(files.certificates._tls, min_version="1.3")
    loaded = await files.certificates.prepare(tls)
    assert files.names == ("a.example",)
    files.certificates.use(tls, loaded)
    assert files.names == ("b.example",)
    assert files.told[-1].min_version == "1.3"
    assert [material.version for material in files.told] == [1, 2]
    assert files.told[0].ticket_keys == files.told[1].ticket_keys, "sessions go on"
    files.cert.write_bytes(b"nothing")
    broken = await files.certificates.prepare(tls)
    assert broken.problems
    files.certificates.use(tls, broken)
    assert files.names == ("b.example",)


async def test_an_expired_certificate_is_used_and_warned_about(watched):
    from datetime import UTC, datetime, timedelta

    files = await watched()
    write_pair(issue("b.example", not_after=datetime.now(UTC) - timedelta(days=1)), files.cert, files.key)
    await eventually(lambda: files.names == ("b.example",))
    (warning,) = files.named("configuration_warning")
    assert "has expired" in warning["warning"]


async def test_another_client_authority_ends_the_sessions_of_the_last(watched):
    files = await watched(with_client_ca=True)
    before = files.told[-1].ticket_keys
    other = issue("x").cert_chain_pems[0].bytes()
    files.ca.write_bytes(other)
    await eventually(lambda: len(files.told) == 2)
    assert not set(files.told[-1].ticket_keys) & set(before)


async def test_ticket_keys_are_changed_and_the_last_one_is_kept(watched):
    files = await watched(key_life_s=0.01)
    await eventually(lambda: len(files.told) >= 3)
    first, second, third = files.told[:3]
    assert len(first.ticket_keys) == 1
    assert second.ticket_keys[1] == first.ticket_keys[0]
    assert third.ticket_keys[1] == second.ticket_keys[0]
    assert [material.version for material in (first, second, third)] == [1, 2, 3]
    assert first.pairs == third.pairs


@pytest.mark.parametrize("trial", [FAILS, (sys.executable, "-c", "import time; time.sleep(60)")])
async def test_where_keys_cannot_be_shared_it_is_said_and_the_rest_works(watched, trial, monkeypatch):
    monkeypatch.setattr("bgproxy.controlplane.certificates.TRIAL_BOUND_S", 0.2)
    files = await watched(trial=trial)
    assert files.told[-1].ticket_keys == ()
    assert len(files.named("tls_resumption_limited")) == 1
    assert files.certificates.report()["resumption"] == "per worker"


async def test_a_start_without_a_usable_set_fails_in_words(tmp_path):
    files = Watched(tmp_path)
    files.key.unlink()
    with pytest.raises(StartupError, match="there is no such file"):
        await files.certificates.start()
    assert files.told == []


async def test_whoever_is_told_late_hears_the_present_set(watched):
    files = await watched()
    late: list[TlsMaterial] = []
    files.certificates.tell = late.append
    assert late == files.told


async def test_the_report_shows_what_an_operator_wants_to_know_and_no_key(watched):
    files = await watched()
    report = files.certificates.report()
    (shown,) = report["certificates"]
    assert shown["names"] == ["a.example"]
    assert shown["key_type"] == "ecdsa"
    assert shown["not_after"].endswith("Z")
    assert shown["expires_in_s"] > 0
    assert shown["loaded_at"] == report["loaded_at"]
    assert report["resumption"] == "all workers"
    assert files.certificates.expiries()[0] > 0
    assert "PRIVATE" not in repr(report)


def test_without_tls_there_is_no_report():
    certificates = Certificates(Tls(), emit=lambda event, **fields: None)
    assert certificates.report() is None
    assert certificates.expiries() == []
