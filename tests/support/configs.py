"""Configurations for tests: a file with two pools, and what loading a text says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from bgproxy.config import Config, Flags, load
from bgproxy.errors import ConfigError

POOLS = '[pools.blue]\nupstreams = ["127.0.0.1:9001"]\n[pools.green]\nupstreams = ["127.0.0.1:9002"]\n'
TWO_POOLS = Flags(blue=("127.0.0.1:9001",), green=("127.0.0.1:9002",))


def load_text(
    directory: Path, text: str, *, env: Mapping[str, str] | None = None, flags: Flags | None = None, pools: str = POOLS
) -> Config:
    """Load `text`, followed by two pools, from a file."""
    file = directory / "bgproxy.toml"
    file.write_text(f"{text}\n{pools}")
    return load(file, flags=flags, env=env or {})


def problems_of(
    directory: Path, text: str, *, env: Mapping[str, str] | None = None, flags: Flags | None = None, pools: str = POOLS
) -> list[str]:
    """The lines of the ConfigError that `text` earns; file names are cut down to `bgproxy.toml`."""
    with pytest.raises(ConfigError) as caught:
        load_text(directory, text, env=env, flags=flags, pools=pools)
    return str(caught.value).replace(f"{directory}/", "").split("\n")
