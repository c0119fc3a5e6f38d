"""The patch with the bounds that are missing: on pages, as files and in the JSON API."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from opam_ci.clients.index import Index
from opam_ci.clients.judge import judged
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.writer import LogWriter
from opam_ci.clients.platform_files import load_platforms
from opam_ci.core.classify.replay import Judged
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.facts import BuildEnvironment, BuildFacts
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Cause, Evidence, OnBase
from opam_ci.core.jobs.plan import PlannedJob
from opam_ci.core.jobs.records import RevisionRecord, RowBatch
from opam_ci.web import bounds
from opam_ci.web.action_service import routes_beside_pages
from opam_ci.web.addresses import job_path
from opam_ci.web.operation import PREFIX
from opam_ci.web.pages import application
from opam_ci.web.site import Site
from opam_ci.web.sources import PageSources
from tests.support.fakes.queue import FAILED, KEY, NOON, P, decided
from tests.support.fakes.serving import served

BROKEN = FAILED.model_copy(update={"evidence": Evidence(rule="x", on_base=OnBase.PASSES)})
HEAD = "/o/r/pull/1"
OPAM = 'opam-version: "2.0"\ndepends: ["lib" "<script>"]\n'


def revdep(name: str, kind: JobKind = JobKind.REVDEP) -> Job:
    return Job(platform=P, package="lib.2", kind=kind, revdep=name)


JOBS = (
    (revdep("one.1"), 2, OPAM),
    # Its opam file is with its other job.
    (revdep("two.1"), 2, ""),
    (revdep("two.1", JobKind.REVDEP_TEST), 2, OPAM),
    (revdep("lost.1"), 2, ""),
    (revdep("once.1"), 1, OPAM),
)
"""Jobs that fail, in how many rounds, and the opam file that is stored with it."""


def path_of(name: str) -> str:
    return job_path(HEAD, revdep(name).id)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    """Pages of a head with regressions: three confirmed, two with an opam file, and one not."""
    url = f"sqlite:///{tmp_path}/index.sqlite"
    store = ArtifactStore.open("memory:")
    index = Index.open(url)
    record = RevisionRecord(key=KEY, base="b", updated_at=NOON, sequence=1)
    for job, rounds, opam_file in JOBS:
        for number in range(1, rounds + 1):
            index.plan(KEY, [PlannedJob(job=job)], round_=number, origin=None, at=NOON)
            row = decided(job, BROKEN, attempt=1, round=number, log=log_of(job))
            index.record(
                RowBatch(key=KEY, revision=record, rows=(row,), sequence=number, updated_at=NOON)
            )
        asyncio.run(keep(store, job, opam_file))
    index.close()
    site = Site(PageSources(index_url=url, store=store, platforms=load_platforms(None)))
    try:
        with (
            served(application(site, routes_beside_pages(site, None))) as address,
            httpx.Client(base_url=address, trust_env=False, timeout=60) as client,
        ):
            yield client
    finally:
        asyncio.run(site.sources.close())


def log_of(job: Job) -> str:
    return f"logs/{job.kind}-{job.revdep}"


async def keep(store: ArtifactStore, job: Job, opam_file: str) -> None:
    environment = BuildEnvironment(image="i", opam="2.3", compiler=(), opam_file=opam_file)
    async with LogWriter(store, log_of(job)) as log:
        log.write(b"the log\n")
        facts = BuildFacts(job=job, phases=(), environment=environment)
        judged.keep(log, Judged(facts=facts, outcome=BROKEN))


LOST = "its opam file is not stored (any more): restart its job"


def test_a_head_has_one_patch(client: httpx.Client) -> None:
    found = client.get(f"{HEAD}/bounds.patch")
    assert found.headers["content-type"] == "text/x-patch; charset=utf-8"
    assert found.text.startswith(f"# lost.1: {LOST}\n--- a/packages/one/one.1/opam\n")
    assert found.text.count('+depends: ["lib" {< "2"} "<script>"]\n') == 2
    again = client.get(f"{HEAD}/bounds.patch", headers={"if-none-match": found.headers["etag"]})
    assert again.status_code == 304
    # Branches and commits have it, too.
    assert client.get(f"/o/r/commit/{KEY.head}/bounds.patch").text == found.text
    assert client.get("/o/r/pull/7/bounds.patch").status_code == 404
    assert f'href="{HEAD}/bounds.patch"' in client.get(HEAD).text


def test_the_page_of_a_job_has_its_own(client: httpx.Client) -> None:
    patch = client.get(f"{path_of('one.1')}/bound.patch").text
    assert (patch.count("--- a/"), patch.count("--- a/packages/one/one.1/opam")) == (1, 1)
    page = client.get(path_of("one.1")).text
    assert f'href="{path_of("one.1")}/bound.patch"' in page
    assert "&#34;lib&#34; {&lt; &#34;2&#34;} &#34;&lt;script&gt;&#34;]" in page

    assert f"lib &lt; 2: {LOST}." in client.get(path_of("lost.1")).text
    once = client.get(path_of("once.1")).text
    assert "Once it has failed twice in the same way" in once
    assert "bound.patch" not in once
    none = client.get(f"{path_of('once.1')}/bound.patch").text
    assert none == "# No regression of a reverse dependency is confirmed.\n"


def test_the_api_has_each_file(client: httpx.Client) -> None:
    found = client.get(f"{PREFIX}{HEAD}/bounds").json()
    assert [(each["package"], each["bounds"]) for each in found["files"]] == [
        ("lost.1", ["lib < 2"]),
        ("one.1", ["lib < 2"]),
        ("two.1", ["lib < 2"]),
    ]
    assert (found["more"], found["files"][0]["problem"]) == (0, LOST)


def test_a_patch_has_so_many_files_at_most(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MOST_FILES", 2)
    patch = client.get(f"{HEAD}/bounds.patch").text
    assert "# not in this patch, but broken as well: 1" in patch
    assert patch.count("--- a/") == 1


def test_a_store_that_is_away_costs_a_page_its_patch_alone(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise InfrastructureError("away", cause=Cause.STORAGE)

    monkeypatch.setattr(judged, "load", away)
    assert client.get(f"{HEAD}/bounds.patch").status_code == 503
    page = client.get(path_of("one.1"))
    assert page.status_code == 200
    assert "bound.patch" not in page.text
