"""The JSON API: what it lists, and what it answers to anything else."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from opam_ci.clients.index import AttemptFilter, Index, JobFilter, Place, RevisionFilter
from opam_ci.clients.remote.server import Server
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause, Errored, Evidence, Failed, FailureReason, Passed
from opam_ci.core.jobs.summary import Standing
from opam_ci.web.addresses import job_name
from opam_ci.web.job_logs import digest
from opam_ci.web.operation import PREFIX
from tests.support.fakes.ci_server import CiServer
from tests.support.fakes.command_line import DEBIAN, FEDORA, NOW, job, key, write

FULL = Errored(cause=Cause.DISK_FULL, evidence=Evidence(rule="enospc", worker="w1"))
BROKEN = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="exit-31"))
FINE = Passed(evidence=Evidence(rule="installed"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CiServer]:
    made = CiServer(tmp_path_factory.mktemp("server"))
    index = made.index
    write(index, key(1), (job("a.1"), FULL), (job("b.1", FEDORA), FULL), (job("c.1"), BROKEN))
    write(index, key(2), (job("a.1"), FULL), (job("d.1"), FINE), (job("a.1", revdep="e.2"), FULL))
    write(index, key(2, "f" * 40, NOW - timedelta(days=1)), (job("old.1"), FINE))
    write(index, key(3), (job("d.1"), FINE), open_=False)
    made.write_log("l", b"one\ntwo\x1b[31m red\x1b[0m\nthree\n")
    # Opened here, where it may outlive a test.
    asyncio.run(made.sources.ask(Index.counts))
    yield made
    made.close()


@pytest.fixture(scope="module")
def url(server: CiServer) -> Iterator[str]:
    with server.running() as url:
        yield url


@pytest.fixture
def remote(url: str) -> Iterator[Server]:
    with Server(url, None) as found:
        yield found


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{url}{PREFIX}/", trust_env=False, timeout=60) as found:
        yield found


TESTINGS = [
    RevisionFilter(),
    RevisionFilter(newest=True, is_open=True),
    RevisionFilter(revision=key(2)),
    RevisionFilter(revision=key(2, "f" * 40, NOW - timedelta(days=1))),
    RevisionFilter(repository="o/r", number=2, head="f" * 40),
    RevisionFilter(branch="b"),
    RevisionFilter(since=NOW - timedelta(hours=1), until=NOW + timedelta(hours=1)),
]

JOBS = [
    JobFilter(),
    *(JobFilter(of=each) for each in TESTINGS[:-1]),
    JobFilter(standing=Standing.ERRORED, cause=Cause.DISK_FULL),
    JobFilter(failure_reason=FailureReason.BUILD),
    JobFilter(kind=JobKind.REVDEP, revdep="e"),
    JobFilter(platform=FEDORA, package="b.1", worker="w1"),
    JobFilter(name=f"build {DEBIAN} a.1"),
    JobFilter(words=("build", "A.1")),
    JobFilter(since=NOW + timedelta(seconds=1)),
]

ATTEMPTS = [
    AttemptFilter(),
    AttemptFilter(of=TESTINGS[2], job=job("a.1")),
    AttemptFilter(standing=Standing.ERRORED, worker="w1", package="a"),
]


def _fields(wanted: RevisionFilter | JobFilter | AttemptFilter) -> str:
    """Names a filter without its values: times are not the same in each process of the tests."""
    return ",".join(sorted(wanted.model_fields_set)) or "all"


@pytest.mark.parametrize("wanted", TESTINGS, ids=_fields)
def test_testings_are_those_of_the_index(
    server: CiServer, remote: Server, wanted: RevisionFilter
) -> None:
    place = Place(limit=10)
    found = remote.revisions(wanted, place=place)
    assert found == server.index.revisions(wanted, place=place)
    assert bool(found.items) == (wanted.branch is None)


@pytest.mark.parametrize("wanted", JOBS, ids=_fields)
def test_jobs_are_those_of_the_index(server: CiServer, remote: Server, wanted: JobFilter) -> None:
    place = Place(limit=10)
    assert remote.jobs(wanted, place=place) == server.index.jobs(wanted, place=place)
    assert remote.counts(wanted) == server.index.counts(wanted)


@pytest.mark.parametrize("wanted", ATTEMPTS, ids=_fields)
def test_attempts_are_those_of_the_index(
    server: CiServer, remote: Server, wanted: AttemptFilter
) -> None:
    found = remote.attempts(wanted, place=Place(limit=10))
    assert found == server.index.attempts(wanted, place=Place(limit=10))
    assert found.items


def test_pages_follow_each_other(remote: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = remote.jobs(JobFilter(), place=Place(limit=100))
    first = remote.jobs(JobFilter(), place=Place(limit=5))
    rest = remote.jobs(JobFilter(), place=Place(limit=100, after=first.following))
    assert first.items + rest.items == whole.items
    assert rest.following is None
    # More than the server gives at once.
    monkeypatch.setattr("opam_ci.clients.remote.server.PAGE_LIMIT", 2)
    assert remote.jobs(JobFilter(), place=Place(limit=5)) == first
    assert remote.jobs(JobFilter(), place=Place(limit=100)) == whole


BUILD = f"job/{job_name(f'build {DEBIAN} a.1')}"


@pytest.mark.parametrize("head", ["pull/1", f"commit/{1:040x}"])
def test_a_log_is_read_by_the_address_of_its_page(client: httpx.Client, head: str) -> None:
    lines = client.get(f"o/r/{head}/{BUILD}/log/lines", params={"from": 2})
    assert [each["spans"] for each in lines.json()["lines"]] == [
        [["two"], [" red", "sgr31"]],
        [["three"]],
    ]
    hits = client.get(f"o/r/{head}/{BUILD}/log/search", params={"q": "re"})
    assert [each["number"] for each in hits.json()["hits"]] == [2, 3]
    part = client.get(f"o/r/{head}/{BUILD}/log/raw", headers={"range": "bytes=0-2"})
    assert (part.status_code, part.text) == (206, "one")
    events = client.get(f"o/r/{head}/{BUILD}/log/events")
    assert "event: end" in events.text
    assert "errored(disk_full)" in events.text


def test_an_answer_is_kept_for_good_only_where_it_stays(client: httpx.Client) -> None:
    """A pull request's address will mean another head, and a job's another attempt."""
    named = {"attempt": "1-1", "log": digest("l")}
    for path, attempt, is_kept in (
        ("o/r/pull/1", named, True),
        ("o/r/pull/1", {"attempt": "1-1"}, False),
        ("o/r/pull/1", named | {"log": digest("of another testing")}, False),
    ):
        response = client.get(f"{path}/{BUILD}/log/lines", params=attempt)
        assert ("immutable" in response.headers["cache-control"]) == is_kept


def test_a_job_and_its_head_are_as_pages_show_them(client: httpx.Client) -> None:
    found = client.get(f"o/r/pull/1/{BUILD}").json()
    assert found["job"]["status"]["outcome"]["cause"] == "disk_full"
    assert [each["log_key"] for each in found["attempts"]] == ["l"]
    page = client.get("o/r/pull/1").json()
    assert page["counts"]["errored"] == 2
    filter_ = page["causes"]["groups"][0]["jobs"]["filter"]
    listed = client.get("o/r/pull/1/jobs", params={"q": filter_}).json()
    assert len(listed["items"]) == page["causes"]["groups"][0]["jobs"]["number"]
    assert client.get("o/r/pull/2/revdeps").json()["items"][0]["revdep"] == "e.2"
    old = client.get("o/r/commit/fffffff").json()
    assert old["revision"]["key"]["head"] == "f" * 40
    assert client.get("pulls").json()["items"][0]["revision"]["key"]["repository"] == "o/r"


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("o/r/pull/1/job/nothing", 404, "no job 'nothing' of this head"),
        ("o/r/pull/1/job/build,p,z.1", 404, "no job 'build,p,z.1' of this head"),
        ("o/r/pull/99", 404, "no test of pull/99 of o/r (yet)"),
        ("o/r/commit/1234567", 404, "no test of 1234567 of o/r (yet)"),
        ("o/r/commit/123", 404, "commit: String should match pattern"),
        ("o/r/commit/0000000", 400, "several commits begin with 0000000"),
        ("o/r/pull/1/jobs?q=is:good", 400, "(character 4 of the filter)"),
        (f"o/r/pull/1/{BUILD}/log/lines?from=9", 404, "No line 9: the log has 3"),
        (
            f"o/r/pull/1/{BUILD}/log/lines?attempt=2-1",
            404,
            "no such attempt: see the page of the job",
        ),
        (f"o/r/pull/1/{BUILD}/log/lines?attempt=x", 400, "attempt: String should match pattern"),
        (f"o/r/pull/1/{BUILD}/log/search?q=", 400, "q: String should have at least 1 character"),
        ("o/r/pull/1/job/build,p,z.1/log/raw", 404, "no such attempt: see the page"),
        ("nothing", 404, "no such resource"),
        ("jobs/", 404, "no such resource"),
        ("o/r/heads/a%0Ab", 404, "no such resource"),
        ("jobs?nothing=1", 400, "nothing: Extra inputs are not permitted"),
        ("platforms?nothing=1", 400, "this resource has no parameters"),
        ("jobs?limit=1&limit=2", 400, "the parameter 'limit' is given 2 times"),
        ("jobs?limit=0", 400, "limit: Input should be greater than or equal to 1"),
        ("jobs?limit=1001", 400, "limit: Input should be less than or equal to 1000"),
        ("jobs?after=x", 400, "invalid page cursor 'x': use what the page before returned"),
        ("jobs?standing=good", 400, "standing: Input should be 'queued'"),
        ("jobs?package=a%00b", 400, "package: String should match pattern"),
        ("jobs?since=0001-01-01T00:00:00Z", 400, "not between the years 2000 and 2200"),
        ("jobs?number=99999999999999999999", 400, "number: Input should be less than"),
        ("testings?number=1&branch=b", 400, "give either a number or a branch"),
        ("testings?opened_at=2026-01-01T00:00:00Z", 400, "opened_at needs repository"),
        ("incidents/99", 404, "no incident 99 (any more)"),
        ("incidents/x", 404, "incident: Input should be a valid integer"),
        ("o/r/pull/x", 404, "no such resource"),
        ("o/r/pull/99999999999", 404, "number: Input should be less than"),
    ],
)
def test_bad_requests_get_a_sentence(
    client: httpx.Client, path: str, status: int, detail: str
) -> None:
    response = client.get(path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert detail.lower() in response.json()["detail"].lower()
    assert "Traceback" not in response.text


def test_a_bug_shows_nothing_of_itself(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr("opam_ci.web.api.Index.counts", fail)
    response = client.get("counts")
    assert response.status_code == 500
    assert response.json()["detail"] == "internal error, a bug of ours: the operators' log has more"
    assert "secret" not in response.text


def test_an_index_that_is_away_is_a_fault_to_wait_for(tmp_path: Path) -> None:
    made = CiServer(tmp_path)
    made.sources.index_url = "postgresql://nobody@127.0.0.1:1/nothing"
    with made.running() as url:
        response = httpx.get(f"{url}{PREFIX}/counts", trust_env=False, timeout=60)
    made.close()
    assert response.status_code == 503
    assert response.headers["retry-after"] == "10"
    assert (
        response.json()["detail"]
        == "unavailable at the moment (storage): repeat the request in 10 s"
    )


def test_the_description_is_of_all_operations(client: httpx.Client) -> None:
    found = client.get("openapi.json").json()
    assert found["openapi"] == "3.1.0"
    assert f"{PREFIX}/{{owner}}/{{repo}}/heads/{{branch}}/job/{{job}}" in found["paths"]
    restart = found["paths"][f"{PREFIX}/{{owner}}/{{repo}}/pull/{{number}}/restart"]["post"]
    assert {"200", "202", "401", "403", "409", "422"} <= restart["responses"].keys()
    assert all(
        each.get("description")
        for path in found["paths"].values()
        for operation in path.values()
        for each in operation.get("parameters", [])
    )
