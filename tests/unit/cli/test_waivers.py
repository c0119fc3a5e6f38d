"""`opam-ci waivers`: what it adds, removes, lists and refuses."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from opam_ci.cli.operator import waivers
from opam_ci.clients.index import Index, JobFilter
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Evidence, Failed, FailureReason, SkipReason
from opam_ci.core.jobs.records import RevisionKey
from tests.support.fakes.command_line import DEBIAN, FEDORA, job, key, output_of, write

BROKEN = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="exit-31"))
ADD = ("waivers", "add", "a", "--because", "known", "--until", "30d", "--by", "ann")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """Failures in three pull requests, of which one has ended."""
    monkeypatch.setenv("OPAM_CI_HOME", str(tmp_path))
    index = Index.open(f"sqlite:///{tmp_path}/index.sqlite")
    write(index, key(1), (job("a.1"), BROKEN), (job("a.1", FEDORA), BROKEN), (job("b.1"), BROKEN))
    write(index, key(2), (job("b.1", revdep="a.2"), BROKEN))
    write(index, key(3), (job("a.1"), BROKEN))
    yield index
    index.close()


@pytest.fixture
def recounted(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Numbers of the pull requests that are signalled; the third one has ended."""
    found = []

    class PullRequests:
        def __init__(self, _: object) -> None: ...

        async def is_running(self, testing: RevisionKey) -> bool:
            return testing.number != 3

        async def recount(self, testing: RevisionKey) -> bool:
            found.append(testing.number)
            return True

    async def connected(*_: object, **__: object) -> None: ...

    monkeypatch.setattr(waivers, "connected", connected)
    monkeypatch.setattr(waivers, "PullRequests", PullRequests)
    return found


def waived(index: Index) -> int:
    return index.counts(JobFilter(skip_reason=SkipReason.WAIVED)).skipped


def test_a_waiver_takes_failures_of_open_pull_requests_at_once(
    index: Index, recounted: list[int | None], capsys: pytest.CaptureFixture[str]
) -> None:
    dry = output_of(capsys, *ADD, "--dry-run")
    assert "a waiver would take failures of a until" in dry
    assert "3 jobs of 2 open pull requests: would not count any more" in dry
    assert (waived(index), recounted, output_of(capsys, "waivers")) == (0, [], "")

    added = output_of(capsys, *ADD).splitlines()
    assert added[0].startswith("waiver 1 takes failures of a until")
    assert added[1] == "3 jobs of 2 open pull requests: not counted any more"
    assert (waived(index), recounted) == (3, [1, 2])
    assert "1\ta\tann\tuntil " in output_of(capsys, "waivers")


@pytest.mark.usefixtures("index", "recounted")
def test_a_second_operator_sees_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    output_of(capsys, *ADD)
    other = ("--by", "bob", "--because", "other")
    for more in ((), ("--dry-run",)):
        refused = output_of(capsys, *ADD, *other, *more, code=2)
        assert "waiver 1 by ann, of " in refused
        assert "(known): `opam-ci waivers remove 1` removes it" in refused
    narrow = output_of(capsys, *ADD, *other, "--platform", DEBIAN)
    assert "  waiver 1 by ann takes some of the same until" in narrow
    line = json.loads(
        output_of(capsys, *ADD, "--kind", "revdep", "--reason", "build", "--json", "--dry-run")
    )
    assert (line["kind"], line["reason"], line["preview"]) == (JobKind.REVDEP, "build", True)


@pytest.mark.usefixtures("recounted")
def test_a_removed_waiver_leaves_what_it_took(
    index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    output_of(capsys, *ADD)
    removed = output_of(capsys, "waivers", "remove", "1", "--by", "bob")
    assert removed.startswith("waiver 1 (a) is removed; what it took counts again once")
    assert waived(index) == 3
    assert "\tremoved " in output_of(capsys, "waivers")
    assert "was removed on" in output_of(capsys, "waivers", "remove", "1", code=2)
    assert "no such waiver: 2" in output_of(capsys, "waivers", "remove", "2", code=2)
    assert [(each.login, each.action) for each in index.audit().items] == [
        ("bob", "unwaive"),
        ("ann", "waive"),
    ]


@pytest.mark.usefixtures("index", "recounted")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["*", "--because", "x", "--until", "7d"], "would take every failure of every package"),
        (["a", "--because", "x", "--until", "2020-01-01"], "would have expired on 01 January 2020"),
        (["a", "--because", "x", "--until", "181d"], "180 days are the most"),
        (["a", "--because", "x", "--until", "soon"], "invalid time 'soon'"),
        (["a", "--because", "", "--until", "7d"], "give in --because"),
        (["a", "--until", "7d"], "Missing option '--because'"),
        (["a", "--because", "x"], "Missing option '--until'"),
        (["[a]", "--because", "x", "--until", "7d"], "invalid glob '[a]' of a package"),
        (["a", "--because", "x", "--until", "7d", "--by", ""], "give in --by"),
        (["a", "--because", "x", "--until", "7d", "--reason", "x"], "'--reason': 'x' is not one"),
    ],
)
def test_a_waiver_that_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert sentence in output_of(capsys, "waivers", "add", *arguments, code=2)


@pytest.mark.usefixtures("index", "recounted")
def test_an_account_without_a_name_has_to_give_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def getuser() -> str:
        raise KeyError("uid 12345")

    monkeypatch.setattr("getpass.getuser", getuser)
    text = output_of(capsys, *ADD[:-2], code=2)
    assert "your account has no name: give in --by" in text
