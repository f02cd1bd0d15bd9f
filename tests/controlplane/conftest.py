from __future__ import annotations

import pytest

from tests.support.bench import Bench


@pytest.fixture
async def make(tmp_path):
    made: list[Bench] = []

    async def make(modes: dict[str, str] | None = None, **options) -> Bench:
        made.append(Bench(tmp_path, **options))
        made[-1].modes(**(modes or {}))
        await made[-1].start()
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
async def bench(make):
    return await make()
