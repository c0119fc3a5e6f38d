"""The page of operators over HTTP."""

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest

from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.platform_files import load_platforms
from opam_ci.core.jobs.hold import Hold
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Cause, Errored, Evidence, Failed, FailureReason, LogLine
from opam_ci.core.jobs.plan import PlannedJob
from opam_ci.core.jobs.records import AttemptRecord, RevisionKey, RevisionRecord
from opam_ci.core.jobs.summary import State
from opam_ci.core.jobs.waiver import Waiver
from opam_ci.core.pages.model import AuditEntry, WrongVerdict
from opam_ci.core.pages.ops import OpsPage
from opam_ci.web.action_service import routes_beside_pages
from opam_ci.web.ops import spark
from opam_ci.web.pages import application
from opam_ci.web.site import Site
from opam_ci.web.sources import PageSources
from tests.support.fakes.serving import served
from tests.support.fakes.written import write

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'{{7*7}}\u202e"
ALLOWED = {"script", "svg", "path"}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index.open(f"sqlite:///{tmp_path}/index.sqlite")
    yield index
    index.close()


@pytest.fixture
def client(index: Index, tmp_path: Path) -> Iterator[httpx.Client]:
    del index
    sources = PageSources(
        index_url=f"sqlite:///{tmp_path}/index.sqlite",
        store=ArtifactStore.open("memory:"),
        platforms=load_platforms(None),
    )
    site = Site(sources)
    with (
        served(application(site, routes_beside_pages(site, None))) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        yield client
    asyncio.run(sources.close())


class Elements(HTMLParser):
    """The elements of a page, and the addresses of its links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    @property
    def links(self) -> list[str]:
        return [attrs["href"] or "" for tag, attrs in self.found if tag == "a"]


def fill(index: Index, text: str) -> RevisionKey:
    """Writes a row for each part of the page, with a text in each field that others choose."""
    now = datetime.now(UTC)
    key = RevisionKey(
        repository="o/r", branch=text, head="a" * 40, opened_at=now - timedelta(hours=1)
    )
    plain = RevisionKey(repository="o/r", number=7, head="b" * 40, opened_at=key.opened_at)
    evidence = Evidence(rule=text, lines=(LogLine(offset=0, text=text),), detail=text)
    job = Job(platform=text, package=text, kind=JobKind.BUILD)
    fault = Errored(cause=Cause.UNKNOWN, evidence=evidence)
    failed = Failed(reason=FailureReason.BUILD, evidence=evidence)
    attempt = AttemptRecord(
        revision=key, job=job, number=1, worker=text, pool=text, outcome=fault,
        started_at=now - timedelta(minutes=5), ended_at=now - timedelta(minutes=4),
    )  # fmt: skip
    write(
        index,
        *(
            RevisionRecord(
                key=each, base="c" * 40, title=text, author=text, planned=True,
                state=State.SUCCESS, hold=Hold(reason="new-author"), updated_at=now, sequence=1,
            )
            for each in (key, plain)
        ),
        attempt,
        attempt.model_copy(update={"revision": plain}),
    )  # fmt: skip
    index.plan(
        key,
        [PlannedJob(job=job.model_copy(update={"package": "x"}), needs=None)],
        round_=1,
        origin=None,
        at=now,
    )
    index.add_audit(
        AuditEntry(
            at=now,
            login=text,
            role="admin",
            action="restart",
            repository="o/r",
            target="pull/7",
            detail=text,
        )
    )
    waiver = Waiver(
        package="lwt", because=text, login=text, created_at=now, expires_at=now + timedelta(days=3)
    )
    index.add_waiver(waiver)
    called_wrong = attempt.model_copy(update={"outcome": failed})
    index.add_wrong_verdict(
        WrongVerdict(at=now, login=text, attempt=called_wrong, expected="passed", comment=text)
    )
    return key


def test_a_page_without_rows_is_a_page(client: httpx.Client) -> None:
    response = client.get("/ops")
    assert response.status_code == 200
    assert "Nothing to do: no attempt began within 24 hours" in response.text


def test_hostile_text_is_text_in_every_part(client: httpx.Client, index: Index) -> None:
    fill(index, HOSTILE[:90])
    response = client.get("/ops")
    assert response.status_code == 200, response.text
    elements = Elements(response.text)
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert not [name for _, attrs in elements.found for name in attrs if name.startswith("on")]
    assert not [attrs for _, attrs in elements.found if "style" in attrs]
    assert all(each.startswith(("/", "#")) for each in elements.links)
    assert "alert(1)" in response.text
    assert "49" not in [each.strip() for each in response.text.split("'")]


def test_every_part_has_its_rows_and_links(client: httpx.Client, index: Index) -> None:
    fill(index, "one")
    text = client.get("/ops").text
    links = [unquote(each) for each in Elements(text).links]
    assert "No: unknown cause on worker one hit 2 jobs of 2 pull requests" in text
    assert "Resolving it would restart 2 jobs in 2 pull requests: one, and then the others." in text
    assert "new author: the rest waits for /opam-ci ok" in text
    assert "/o/r/heads/one?q=is:queued" in links
    assert "/o/r/pull/7?q=is:errored,retrying+cause:unknown" in links or (
        "/o/r/pull/7?q=is:errored,retrying cause:unknown" in links
    )
    assert "/api/v1/attempts?worker=one&cause=unknown" in links
    assert re.search(r"<td>lwt</td><td[^>]*>expires <time", text)
    # A waiver is of no repository.
    assert re.search(r"<td>waive <code>1: lwt; one; until [^<]*</code></td>\n<td></td>", text)
    assert any(each.startswith("/o/r/commit/" + "a" * 40 + "/job/build") for each in links)
    for title in (
        "Incidents", "Who waits longest", "Queue", "Pools", "Workers", "Faults of unknown cause",
        "Parked jobs", "Verdicts in doubt", "Flow", "Processor time", "Actions",
    ):  # fmt: skip
        # A fault is at nobody's cost.
        assert (f">{title}" in text) == (title != "Processor time"), title


def test_the_json_is_the_page(client: httpx.Client, index: Index) -> None:
    fill(index, "one")
    response = client.get("/api/v1/ops")
    assert response.headers["content-type"] == "application/json"
    page = OpsPage.model_validate_json(response.content)
    assert page.incidents[0].restarts == 2
    assert page.sentence in client.get("/ops").text


def test_the_index_is_read_once_for_all_who_look(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[datetime] = []
    original = Index.ops_page

    def counted(index: Index, now: datetime) -> OpsPage:
        reads.append(now)
        return original(index, now)

    monkeypatch.setattr(Index, "ops_page", counted)
    first = client.get("/ops")
    assert client.get("/api/v1/ops").status_code == 200
    again = client.get("/ops", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304
    assert len(reads) == 1


def test_the_highest_hour_of_a_sparkline_is_as_high_as_its_box() -> None:
    assert spark((0, 0)) == ""
    assert spark((0, 8, 4)) == "M4 16v-16h3v16zM8 16v-8h3v8z"
    assert spark((1, 1000)) == "M0 16v-2h3v2zM4 16v-16h3v16z"
