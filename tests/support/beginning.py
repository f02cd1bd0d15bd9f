"""What a start begins with: a configuration of two pools that nobody serves."""

from __future__ import annotations

from pathlib import Path

from bgproxy import config as configuration


def config(directory: Path, **env: str) -> configuration.Config:
    flags = configuration.Flags(
        listen=("127.0.0.1:0",),
        admin="127.0.0.1:0",
        blue=("127.0.0.1:1",),
        green=("127.0.0.1:2",),
        workers="2",
        state_dir=directory / "state",
    )
    return configuration.load(None, flags=flags, env=env)
