"""The seeds of the fuzz targets, and what was found with them, as tests that need no fuzzer."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

CORPUS = Path(__file__).resolve().parent / "corpus"
FILES = sorted(CORPUS.glob("*/*"))


def test_there_is_a_corpus_for_each_target():
    assert {file.parent.name for file in FILES} == {"request", "response"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_the_invariant_holds(file):
    importlib.import_module(f"tests.fuzz.{file.parent.name}").target(file.read_bytes())
