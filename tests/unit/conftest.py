"""An index on each database, shared by the tests about it."""

from collections.abc import Iterator
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import text

from opam_ci.clients.index import Index


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest) -> Iterator[Index]:
    with TemporaryDirectory(prefix="opam-ci-index-") as home:
        if request.param == "sqlite":
            url = f"sqlite:///{home}/index.db"
        else:
            url = request.getfixturevalue("postgres")
        index = Index.open(url)
        yield index
        index.close()


@pytest.fixture
def index(opened: Index) -> Iterator[Index]:
    """An empty index."""
    yield opened
    opened._kept.clear()
    with opened._engine.begin() as connection:
        connection.execute(text("DELETE FROM pull_requests"))  # the rest goes with them
        for table in ("incidents", "audit", "wrong_verdicts", "waivers"):
            connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - ours
        for table in ("revisions", "jobs", "attempts"):
            assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0  # noqa: S608 - ours
