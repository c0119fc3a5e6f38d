"""Pages over HTTP: addresses, headers, errors, and answers by state."""

import asyncio
import gzip
import html
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import pytest

from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.platform_files import load_platforms
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.known_verdict import KnownVerdict
from opam_ci.core.jobs.outcome import Cause, Evidence, Failed, FailureReason, OnBase, Passed, Reused
from opam_ci.core.jobs.plan import PlannedJob
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
from opam_ci.core.jobs.summary import JobState, JobStatus, State
from opam_ci.core.jobs.waiver import Waiver
from opam_ci.core.submission.effect import Effect, LostPackage
from opam_ci.web.action_service import routes_beside_pages
from opam_ci.web.operation import PREFIX
from opam_ci.web.pages import application
from opam_ci.web.security import CONTENT_SECURITY_POLICY
from opam_ci.web.site import Site
from opam_ci.web.sources import PageSources
from tests.support.fakes.serving import served
from tests.support.samples.fixed import fixed
from tests.support.samples.known_failures import failed, seen
from tests.support.samples.known_verdicts import known_verdict
from tests.support.worlds import pages as world


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(
        PageSources(
            index_url=f"sqlite:///{tmp_path}/index.sqlite",
            store=ArtifactStore.open("memory:"),
            platforms=load_platforms(None),
        )
    )


@contextmanager
def client_of(site: Site) -> Iterator[httpx.Client]:
    """Serves pages on a real port, as uvicorn reads and writes them."""
    try:
        with (
            served(application(site, routes_beside_pages(site, None))) as url,
            httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
        ):
            yield client
    finally:
        asyncio.run(site.sources.close())


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with client_of(site) as client:
        yield client


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere/at/all",
        "/static/site.css",
        "/static/../pages.py",
        "/package/a%2Fb",
        "/a b/c/pull/1",
    ],
)
def test_unknown_paths_are_pages_with_a_way_on(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert "All pull requests" in response.text
    assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY


def test_a_page_has_the_headers_that_keep_hostile_text_harmless(client: httpx.Client) -> None:
    headers = client.get("/platforms").headers
    assert headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; "
        "require-trusted-types-for 'script'"
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["referrer-policy"] == "same-origin"


def test_the_newest_state_costs_a_poll_less_than_300_bytes(client: httpx.Client) -> None:
    first = client.get("/platforms")
    again = client.get("/platforms", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304
    assert sum(len(name) + len(value) + 4 for name, value in again.headers.items()) < 200
    assert client.get("/platforms", headers={"if-none-match": '"other"'}).status_code == 200


def test_styles_and_scripts_are_cached_for_good_by_their_content(
    client: httpx.Client, site: Site
) -> None:
    path = site.assets.path("site.css")
    response = client.get(path)
    assert path in client.get("/platforms").text
    assert "immutable" in response.headers["cache-control"]
    assert response.headers["content-type"].startswith("text/css")


def test_an_index_that_is_away_is_a_page_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_text("not a database, but long enough to look at it" * 100)
    sources = PageSources(
        index_url=f"sqlite:///{tmp_path}/index.sqlite",
        store=ArtifactStore.open("memory:"),
        platforms=load_platforms(None),
    )
    with client_of(Site(sources)) as client:
        response = client.get("/incidents")
    assert response.status_code == 503
    assert "try again" in response.text.lower()
    assert str(tmp_path) not in response.text


def test_a_bug_is_a_page_without_a_trace(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Index, "incidents", broken)
    response = client.get("/incidents")
    assert response.status_code == 500
    assert "A bug of opam-ci" in response.text
    assert "secret" not in response.text
    assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY


def test_only_get_is_answered(client: httpx.Client) -> None:
    response = client.post("/platforms")
    assert response.status_code == 405
    assert "All pull requests" in response.text


def test_a_cursor_that_is_none_is_refused(client: httpx.Client) -> None:
    response = client.get("/incidents?after=x")
    assert response.status_code == 400
    assert "cursor" in response.text


def test_health_needs_no_index(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_scripts_and_styles_are_small(site: Site, client: httpx.Client) -> None:
    def size(extension: str, pack: Callable[[bytes], bytes]) -> int:
        folder = resources.files("opam_ci.web").joinpath("static")
        names = [each.name for each in folder.iterdir() if each.name.endswith(extension)]
        contents = [client.get(site.assets.path(name)).content for name in names]
        assert all(contents)
        return sum(len(pack(each)) for each in contents)

    assert size(".js", gzip.compress) < 25_000
    assert size(".css", gzip.compress) < 12_000


@pytest.fixture
def filled(site: Site, client: httpx.Client) -> httpx.Client:
    """The pages of a pull request with all that they show."""
    index = Index.open(site.sources.index_url)
    key = world.fill(index)
    index.close()
    asyncio.run(world.store_logs(site.sources.store, key))
    return client


HEAD = f"/{world.REPOSITORY}/pull/{world.NUMBER}"
JOB = f"{HEAD}/job/build,debian-13-ocaml-5.3@amd64,cppo.1.8.0"


def test_the_page_of_a_head_answers_by_state(filled: httpx.Client, site: Site) -> None:
    first = filled.get(HEAD)
    assert first.status_code == 200
    known = {"if-none-match": first.headers["etag"]}
    assert filled.get(HEAD, headers=known).status_code == 304
    # A list of the same head is another page.
    assert filled.get(f"{HEAD}?q=is:failed", headers=known).status_code == 200
    index = Index.open(site.sources.index_url)
    key = world.key_of(world.NEW)
    job = JobStatus(
        job=Job(platform="p/amd64", package="late.1", kind=JobKind.BUILD), state=JobState.QUEUED
    )
    at = key.opened_at + timedelta(hours=1)
    index.record(RowBatch(key=key, rows=(job,), sequence=9, updated_at=at))
    index.close()
    assert filled.get(HEAD, headers=known).status_code == 200


def test_each_number_leads_to_the_jobs_that_it_counts(filled: httpx.Client) -> None:
    page = filled.get(HEAD).text
    glyph = '(?:<span class="glyph"[^>]*>.</span> )?'
    link = rf'<a[^>]* href="([^"]*\?q=[^"]*)"[^>]*>(?:<b>)?{glyph}(\d+)\b'
    counted = re.findall(link, page)
    assert len(counted) > 10
    for address, number in counted:
        found = filled.get(html.unescape(address)).text
        assert found.count("data-row") == int(number), address


def test_what_is_not_there_is_a_page_with_a_way_on(filled: httpx.Client) -> None:
    for path, way in {
        f"/{world.REPOSITORY}/pull/1": f"/{world.REPOSITORY}",
        f"/{world.REPOSITORY}/pull/99999999999999999999": "/",
        f"/{world.REPOSITORY}/commit/0123456": f"/{world.REPOSITORY}",
        f"/{world.REPOSITORY}/commit/HEAD": "/",
        f"{HEAD}/job/build,nowhere,cppo.1.8.0": f"{HEAD}?q=",
        f"{HEAD}/job/%25ff": "/",
        f"{JOB}?attempt=7-7": JOB,
        f"{JOB}?attempt=x": JOB,
    }.items():
        response = filled.get(path)
        assert response.status_code == 404, path
        assert f'href="{way}"' in response.text, path


def test_a_commit_is_found_by_its_first_digits(filled: httpx.Client) -> None:
    page = filled.get(f"/{world.REPOSITORY}/commit/{world.OLD[:7]}")
    assert page.status_code == 200
    assert "A newer head is tested" in page.text


def test_the_log_of_a_job_is_below_its_page(filled: httpx.Client) -> None:
    found = re.search(r'data-query="([^"]+)"', filled.get(JOB).text)
    assert found is not None
    query = html.unescape(found[1])
    lines = filled.get(f"{JOB}/log/lines?{query}")
    assert lines.json()["total"] > 1500
    assert "immutable" in lines.headers["cache-control"]
    # Without the log's own name, the same address will mean another log one day.
    assert filled.get(f"{JOB}/log/lines").headers["cache-control"] == "no-store"
    raw = filled.get(f"{JOB}/log/raw")
    assert raw.content == world.log_text(world.Told())
    assert raw.headers["x-content-type-options"] == "nosniff"
    assert filled.get(f"{JOB}/log/lines?attempt=9-9").status_code == 404


def test_a_job_shows_with_what_it_was_built_and_what_differs_from_where_it_passed(
    filled: httpx.Client,
) -> None:
    page = filled.get(JOB).text
    assert f"image <code>{'4f' * 32}</code>" in page
    assert "opam <b>2.3.0</b>" in page
    assert "2 packages in the solution, 1 of this change; compiler with 2 packages" in page
    assert "Solution: dune.3.19.0, <b>cppo.1.8.0</b>" in page
    assert "dune: 3.17.2 then, 3.19.0 now" in page
    line = f'<a href="#b{len(world.LOG_HEAD)}"><code>{html.escape(world.ERROR, quote=True)}'
    assert line.replace("&quot;", "&#34;") in page
    passed = (
        f"/{world.REPOSITORY}/commit/{world.OLD}/job/build,debian-13-ocaml-5.3@amd64,cppo.1.8.0"
    )
    assert f'<a href="{passed}">' in page
    # Where it passed, there is nothing to compare.
    assert "What differs" not in filled.get(passed).text
    found = filled.get(f"{PREFIX}{JOB}/attempt").json()
    assert found["phases"][0]["exit_code"] == 2
    assert found["environment"]["changed"] == ["cppo.1.8.0"]
    assert found["changes"] == [{"name": "dune", "before": "3.17.2", "now": "3.19.0"}]
    assert [each["text"] for each in found["new_lines"]] == [world.ERROR, f"Error {world.ERROR}"]
    assert filled.get(f"{PREFIX}{JOB}/attempt?attempt=7-7").status_code == 404


def test_a_job_that_was_not_run_leads_to_the_one_that_was(filled: httpx.Client, site: Site) -> None:
    ran = world.key_of(world.OLD)
    reused = Reused(**ran.model_dump(), round=1, attempt=1, ended_at=ran.opened_at)
    outcome = Passed(evidence=Evidence(rule="installed", reused=reused))
    job = Job(platform=world.PLATFORMS[0], package="new.1", kind=JobKind.BUILD)
    index = Index.open(site.sources.index_url)
    index.plan(
        world.key_of(world.NEW),
        [PlannedJob(job=job, plan_key="k", verdict=KnownVerdict(outcome=outcome, log="logs/x"))],
        round_=1,
        origin=None,
        at=ran.opened_at,
    )
    index.close()
    page = filled.get(JOB.replace("cppo.1.8.0", "new.1"))
    assert page.status_code == 200
    words = f"Passed, as with the same inputs for #{world.NUMBER} on {ran.opened_at:%d %B %Y}."
    assert words in page.text
    assert "This job was not run." in page.text
    there = JOB.replace("cppo.1.8.0", "new.1").rpartition("/job/")[2]
    assert f'href="/{world.REPOSITORY}/commit/{world.OLD}/job/{there}"' in page.text
    # One that ran does not say so.
    assert "was not run" not in filled.get(JOB).text


def record(site: Site, status: JobStatus) -> None:
    """Adds a job to the newest head, or puts its new state there."""
    index = Index.open(site.sources.index_url)
    key = world.key_of(world.NEW)
    index.record(RowBatch(key=key, rows=(status,), sequence=1, updated_at=key.opened_at))
    index.close()


def test_a_job_that_ended_with_its_solution_leads_to_the_one_that_was_built(
    filled: httpx.Client, site: Site
) -> None:
    job = Job(platform=world.PLATFORMS[0], package="needs.1", kind=JobKind.BUILD)
    status = JobStatus(
        job=job, state=JobState.DECIDED, outcome=known_verdict().outcome, attempt=1, log="logs/x"
    )
    record(site, status)
    page = filled.get(JOB.replace("cppo.1.8.0", "needs.1")).text
    assert "This job was not built." in page
    # Where that was a job of another kind, to that.
    there = "build,debian-13-ocaml-5.3@amd64,foo.1"
    assert f'href="/ocaml/opam-repository/commit/{"c" * 40}/job/{there}"' in page


def test_a_job_that_did_not_build_what_failed_leads_to_one_that_did(
    filled: httpx.Client, site: Site
) -> None:
    job = Job(platform=world.PLATFORMS[0], package="needs.1", kind=JobKind.BUILD)
    evidence = failed().evidence.model_copy(update={"seen_in": seen(round_=2)})
    outcome = failed().model_copy(update={"evidence": evidence})
    status = JobStatus(job=job, state=JobState.DECIDED, outcome=outcome, attempt=1)
    record(site, status)
    page = filled.get(JOB.replace("cppo.1.8.0", "needs.1")).text
    assert "This job did not build the dependency" in page
    there = "build,debian-13-ocaml-5.3@amd64,foo.1?attempt=2-1#log"
    assert f'href="/ocaml/opam-repository/commit/{"c" * 40}/job/{there}"' in page
    # One that did does not say so.
    other = filled.get(JOB)
    assert other.status_code == 200
    assert "did not build" not in other.text


def test_a_failure_says_what_it_is_without_the_change(filled: httpx.Client, site: Site) -> None:
    job = Job(platform=world.PLATFORMS[0], package="old.1", kind=JobKind.BUILD)
    evidence = Evidence(rule="package-report", on_base=OnBase.PASSES)
    outcome = Failed(reason=FailureReason.BUILD, evidence=evidence)
    status = JobStatus(job=job, state=JobState.DECIDED, outcome=outcome, attempt=1)
    record(site, status)
    page = filled.get(JOB.replace("cppo.1.8.0", "old.1")).text
    there = JOB.rpartition("/job/")[2].replace("cppo.1.8.0", "old.1").replace("build", "base-build")
    link = f'<a href="/{world.REPOSITORY}/pull/{world.NUMBER}/job/{there}">Without this change</a>'
    assert f"{link} it passes: the change broke it." in page


def test_a_fixed_job_leads_to_where_it_failed(filled: httpx.Client, site: Site) -> None:
    job = Job(platform=world.PLATFORMS[0], package="old.1", kind=JobKind.BUILD)
    outcome = fixed("<b>it never worked</b>")
    status = JobStatus(job=job, state=JobState.DECIDED, outcome=outcome, attempt=1)
    record(site, status)
    page = filled.get(JOB.replace("cppo.1.8.0", "old.1")).text
    there = "base-build,debian-13-ocaml-5.3@amd64,r.1?attempt=2-1#log"
    link = f'<a href="/ocaml/opam-repository/commit/{"c" * 40}/job/{there}">Without this change</a>'
    assert f"{link} it fails: <code>&lt;b&gt;it never worked&lt;/b&gt;</code>" in page
    assert "Passed; without this change it fails: &lt;b&gt;it never worked" in page
    # The page of the head leads to it.
    head = f"/{world.REPOSITORY}/pull/{world.NUMBER}"
    link = f'<a href="{head}?q=cause%3Afixed">1</a></b> fixed: without this change it fails'
    assert link in filled.get(head).text
    listed = filled.get(f"{head}?q=cause%3Afixed").text
    assert "<code>without this change it fails: &lt;b&gt;it never worked&lt;/b&gt;</code>" in listed
    assert listed.count("<a data-row") == 1


@pytest.mark.parametrize("days", [1, -1])
def test_a_job_has_the_waiver_that_takes_it(filled: httpx.Client, site: Site, days: int) -> None:
    job = Job(platform=world.PLATFORMS[0], package="old.1", kind=JobKind.BUILD)
    failed = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="package-report"))
    status = JobStatus(job=job, state=JobState.DECIDED, outcome=failed, attempt=1)
    index = Index.open(site.sources.index_url)
    key = world.key_of(world.NEW)
    now = datetime.now(UTC)
    index.record(RowBatch(key=key, rows=(status,), sequence=1, updated_at=key.opened_at))
    index.add_waiver(
        Waiver(
            package="old",
            because="<b>known</b>",
            login="ann",
            created_at=now - timedelta(days=2),
            expires_at=now + timedelta(days=days),
        )
    )
    assert index.waive(key, now)
    index.close()
    page = filled.get(JOB.replace("cppo.1.8.0", "old.1")).text
    day = f"{now + timedelta(days=days):%d %B %Y}"
    if days > 0:
        assert f"Skipped, the failure is waived by ann until {day}: &lt;b&gt;known" in page
        assert re.search("Waiver 1 by ann until .*: the failure does not count: &lt;b&gt;", page)
    else:
        assert f"Failed (build), the waiver by ann expired on {day}: " in page
        assert re.search("Waiver 1 by ann expired .*: &lt;b&gt;known", page)


def test_other_packages_that_a_head_takes_away_are_listed(client: httpx.Client, site: Site) -> None:
    now = datetime.now(UTC)
    index = Index.open(site.sources.index_url)

    def write(number: int, effect: Effect | None) -> str:
        key = RevisionKey(repository="o/r", number=number, head="a" * 40, opened_at=now)
        record = RevisionRecord(
            key=key, base="b" * 40, planned=True, state=State.SUCCESS, effect=effect, updated_at=now
        )
        row = JobStatus(
            job=Job(platform="p/amd64", package="a.1", kind=JobKind.BUILD),
            state=JobState.DECIDED, outcome=Passed(evidence=Evidence(rule="installed")),
        )  # fmt: skip
        index.record(RowBatch(key=key, revision=record, rows=(row,), sequence=1, updated_at=now))
        return client.get(f"/o/r/pull/{number}").text

    lost = LostPackage(package="<b>.1", ocaml=("5.4", "5.3"), last_on=("5.3",))
    effect = Effect(ocaml=("5.4", "5.3"), lost=(lost,), more=1_119, cycles=(("c.1", "d.1", "c.1"),))
    page = write(1, effect)
    title = "makes 1,120 packages uninstallable on OCaml 5.4 and 5.3"
    assert f"1 passed; {title}" in page
    assert f"Other packages: {title}" in page
    assert "&lt;b&gt;.1</b>: OCaml 5.4, 5.3; no other version can be installed with 5.3" in page
    assert re.search("1.119 more: <code>opam-ci effect</code> lists all", page)
    assert "Dependency cycle: c.1 → d.1 → c.1" in page
    assert client.get(f"{PREFIX}/o/r/pull/1").json()["revision"]["effect"]["more"] == 1_119

    page = write(2, Effect(unknown="git <failed>"))
    assert "Not known: git &lt;failed&gt;" in page
    assert "uninstallable" not in page
    for number, nothing in ((3, None), (4, Effect(ocaml=("5.4",)))):
        assert "Other packages" not in write(number, nothing)
    index.close()


def test_a_head_under_way_says_when_it_will_be_done(client: httpx.Client, site: Site) -> None:
    now = datetime.now(UTC)

    def write(number: int, state: State, *rows: JobStatus, minutes: int = 0) -> None:
        at = now + timedelta(minutes=minutes)
        key = RevisionKey(repository="o/r", number=number, head="a" * 40, opened_at=now)
        record = RevisionRecord(
            key=key, base="b" * 40, planned=True, state=state, updated_at=at, sequence=minutes
        )
        batch = RowBatch(key=key, revision=record, rows=rows, sequence=minutes, updated_at=at)
        index.record(batch)

    index = Index.open(site.sources.index_url)
    job = Job(platform="p/amd64", package="a.1", kind=JobKind.BUILD)
    write(1, State.PENDING, JobStatus(job=job))
    assert "no estimate yet: no such job has ended here" in client.get("/o/r/pull/1").text
    found = client.get(f"{PREFIX}/o/r/pull/1").json()
    assert (found["estimate"], found["no_estimate"]) == (None, "unmeasured")

    ran = JobStatus(
        job=job, state=JobState.DECIDED, outcome=Passed(evidence=Evidence(rule="installed")),
        attempt=1, started_at=now - timedelta(minutes=12), decided_at=now,
        attempt_started_at=now - timedelta(minutes=12),
    )  # fmt: skip
    write(2, State.SUCCESS, ran)
    # Two at the median of one that ran; each is at most as long as that.
    words = r"<b>done in 10 to 25 minutes, by (\d\d \w+ )?\d\d:\d\d UTC</b>"
    assert re.search(words, client.get("/o/r/pull/1").text)
    found = client.get(f"{PREFIX}/o/r/pull/1").json()
    assert (found["estimate"]["soonest"], found["estimate"]["latest"]) == ("PT10M", "PT25M")
    assert client.get("/o/r/pull/2").text.count("estimate") == 0

    # The first estimates are of an hour at most.
    write(1, State.PENDING, JobStatus(job=job), minutes=1)
    write(1, State.SUCCESS, minutes=20)
    write(3, State.PENDING, JobStatus(job=job))
    write(3, State.FAILURE, minutes=90)
    write(4, State.PENDING, JobStatus(job=job))
    write(4, State.FAILURE, minutes=10)
    index.close()
    assert "of 3, 66 % held" in client.get("/ops").text
    flow = client.get(f"{PREFIX}/ops").json()["flow"]
    assert flow["estimates"] == {"held": 2, "missed": 1}


def test_lint_findings_lead_to_their_lines(filled: httpx.Client) -> None:
    line = (
        f"https://github.com/{world.REPOSITORY}/blob/{world.NEW}/packages/cppo/cppo.1.8.0/opam#L12"
    )
    assert f'href="{line}"' in filled.get(HEAD).text


def test_a_store_that_is_away_hides_nothing_else(
    filled: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise InfrastructureError("the store is at 10.0.0.1", cause=Cause.STORAGE)

    for name in ("get", "list"):
        monkeypatch.setattr(ArtifactStore, name, away)
    page = filled.get(HEAD)
    assert page.status_code == 200
    assert "The store does not answer" in page.text
    # It is asked for again, as soon as the store is back.
    known = {"if-none-match": page.headers["etag"]}
    monkeypatch.undo()
    assert filled.get(HEAD, headers=known).status_code == 200


def test_badges_and_feeds(filled: httpx.Client) -> None:
    badge = filled.get(f"/badge{HEAD}.svg")
    assert badge.headers["content-type"] == "image/svg+xml"
    assert "failed" in badge.text
    assert filled.get(f"/badge/{world.REPOSITORY}/pull/1.svg").status_code == 404
    feed = ET.fromstring(filled.get("/incidents.atom").content)  # noqa: S314 - ours
    assert len(feed.findall("{*}entry")) == 2
