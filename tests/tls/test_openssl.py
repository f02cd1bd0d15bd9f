"""Sessions of one context resumed by another: the door that ssl does not have."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys

import pytest

from bgproxy.tls import openssl
from bgproxy.tls.contexts import Contexts, new_context
from tests.support.certificates import client_context, handshake, material, pair

PAIR = pair("a.example", "b.example")
OTHER = pair("c.example")


def contexts(*keys: bytes) -> Contexts:
    return Contexts(material(PAIR, OTHER, ticket_keys=keys), tune=openssl.tune)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["a.example", "c.example"])
def test_a_session_is_resumed_by_every_context_with_the_same_key(version, name):
    key = os.urandom(80)
    context = client_context(maximum_version=version)
    first, _ = handshake(context, contexts(key).initial, name)
    assert not first.session_reused
    again, _ = handshake(context, contexts(key).initial, name, first.session)
    assert again.session_reused
    strange, _ = handshake(context, contexts(os.urandom(80)).initial, name, first.session)
    assert not strange.session_reused


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_under_the_last_key_is_still_resumed(version):
    old, new, older = os.urandom(80), os.urandom(80), os.urandom(80)
    context = client_context(maximum_version=version)
    changed = contexts(new, old)
    for key, resumed in ((old, True), (new, True), (older, False)):
        first, _ = handshake(context, contexts(key).initial, "a.example")
        again, _ = handshake(context, changed.for_hello, "a.example", first.session)
        assert again.session_reused is resumed


def test_a_key_has_eighty_bytes():
    with pytest.raises(ValueError, match="80 bytes"):
        openssl.tune(new_context([PAIR.pem], material(PAIR)), b"short")


def test_the_trial_in_a_process_of_its_own_finds_that_it_works_here():
    done = subprocess.run([sys.executable, "-m", "bgproxy.tls.openssl"], input=PAIR.pem, check=False, timeout=30)
    assert done.returncode == 0


def test_an_interpreter_without_that_door_is_told_from_one_with_it(monkeypatch):
    monkeypatch.setattr(openssl, "_control", lambda: None)
    assert not openssl.tune(new_context([PAIR.pem], material(PAIR)), os.urandom(80))
    assert not openssl.resumes(PAIR.pem)
