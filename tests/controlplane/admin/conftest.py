from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.admin import Admin, FakeControl, admin_api


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
async def api(control: FakeControl, tmp_path: Path) -> AsyncIterator[Admin]:
    """The admin API without tokens, on loopback and on a unix socket."""
    async with admin_api(control, tmp_path) as running:
        yield running
