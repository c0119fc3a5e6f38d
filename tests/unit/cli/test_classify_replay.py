"""`opam-ci classify --replay`: stored attempts under today's rules."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer

from opam_ci.cli.developer.classify import classify
from opam_ci.clients.index import AttemptFilter, Index
from opam_ci.clients.judge import judged
from opam_ci.clients.logs.format import end_key
from opam_ci.clients.logs.kept import keep_log
from opam_ci.clients.logs.reader import LogReader
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.writer import LogWriter
from opam_ci.clients.runners.phases.transcript import Transcript
from opam_ci.core.classify import judge
from opam_ci.core.classify.replay import Judged, replay
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.facts import BuildFacts, PhaseRun
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    label,
)
from opam_ci.core.jobs.records import AttemptRecord, RevisionKey
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.pages.model import WrongVerdict
from tests.support.fakes.written import write

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
KEY = RevisionKey(repository="o/r", number=7, head="a" * 40, opened_at=NOON)
DNS = b"curl: (6) Could not resolve host: example.org\n"
SMALL, LARGE = 10, 1_000_000


def job(package: str) -> Job:
    return Job(platform="debian-13-ocaml-5.3/amd64", package=package, kind=JobKind.BUILD)


async def logged(store: ArtifactStore, key: str, package: str, padding: int) -> BuildFacts:
    """Writes a log as a runner does and returns its facts."""
    async with LogWriter(store, key) as log:
        transcript = Transcript(log, lambda _: None)
        transcript.plain("To reproduce locally\n")
        transcript.begin(Phase.FETCH, "sources")
        start = log.size
        transcript.output(b"x" * padding + b"\n" + DNS)
        end = log.size
        transcript.end("exit 40")
    run = PhaseRun(phase=Phase.FETCH, exit_code=40, duration=1, log_start=start, log_end=end)
    facts = BuildFacts(job=job(package), phases=(run,))
    # What is read back is what the judge had.
    assert await judged.phase_texts(store, key, facts) == transcript.texts
    return facts


async def noted(store: ArtifactStore, key: str, what: Judged) -> None:
    """Adds to a log's end what the activity writes there."""
    end = await LogReader(store).end(key)
    assert end is not None
    log = LogWriter(store, key)
    judged.keep(log, what)
    await store.put(
        end_key(key), end.model_copy(update={"note": log.note}).model_dump_json().encode()
    )


class Stored:
    """A store and an index with attempts."""

    def __init__(self, directory: Path) -> None:
        self.store = ArtifactStore.open((directory / "store").as_uri())
        self.index = Index.open(f"sqlite:///{directory}/index.sqlite")

    def add(
        self, package: str, before: Outcome | None, *, facts: bool = True, padding: int = SMALL
    ) -> None:
        """Add an attempt with its verdict then; None for that of today's rules."""
        key = f"logs/{package}"
        found = asyncio.run(logged(self.store, key, package, padding))
        outcome = before or judge(found, asyncio.run(judged.phase_texts(self.store, key, found)))
        if facts:
            asyncio.run(noted(self.store, key, Judged(facts=found, outcome=outcome)))
        attempt = AttemptRecord(
            revision=KEY,
            job=job(package),
            number=1,
            started_at=NOON,
            ended_at=NOON + timedelta(minutes=1),
            outcome=outcome,
            log_key=key,
        )
        write(self.index, attempt)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stored]:
    monkeypatch.setenv("OPAM_CI_STORE", (tmp_path / "store").as_uri())
    monkeypatch.setenv("OPAM_CI_INDEX", f"sqlite:///{tmp_path}/index.sqlite")
    made = Stored(tmp_path)
    yield made
    made.index.close()


def once() -> Outcome:
    return Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="an-old-rule"))


def test_only_changed_verdicts_are_listed(
    stored: Stored, capsys: pytest.CaptureFixture[str]
) -> None:
    stored.add("same.1", None)
    stored.add("flips.1", once())
    stored.add("large.1", once(), padding=LARGE)
    stored.add("older.1", once(), facts=False)

    classify(replay=True)

    shown = capsys.readouterr().out
    assert "o/r pull/7 build debian-13-ocaml-5.3/amd64 flips.1 1-1: failed" in shown
    assert "failed(build) by an-old-rule -> errored(dns) by curl-dns\n    curl: (6)" in shown
    assert "same.1" not in shown
    assert shown.splitlines()[-2:] == [
        "2 x failed(build) -> errored(dns)",
        (
            "4 attempts, 3 classified again: 2 verdicts change, 0 are the same by another rule; "
            "1 without facts, 0 without a log"
        ),
    ]


def test_json_has_the_same_content(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    stored.add("flips.1", once())

    classify(replay=True, as_json=True)

    flip, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert (flip["event"], flip["target"], flip["attempt"]) == ("flip", "pull/7", 1)
    assert (flip["before"]["reason"], flip["now"]["cause"]) == ("build", "dns")
    assert flip["now"]["evidence"]["lines"][0]["text"] == DNS.decode().strip()
    assert (summary["flips"], summary["kinds"]) == (1, {"failed(build) -> errored(dns)": 1})


def test_a_flip_fails_with_the_option_for_it(stored: Stored) -> None:
    stored.add("same.1", None)
    classify(replay=True, fail_on_flip=True)

    stored.add("flips.1", once())
    with pytest.raises(typer.Exit) as caught:
        classify(replay=True, fail_on_flip=True)

    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("options", "attempts"),
    [
        ({}, 2),
        ({"outcome": Standing.FAILED}, 1),
        ({"cause": Cause.DNS}, 1),
        ({"cause": Cause.DISK_FULL}, 0),
        ({"platform": "debian-13-ocaml-5.3/amd64"}, 2),
        ({"platform": "elsewhere"}, 0),
        ({"since": "2026-11-24T12:00"}, 2),
        ({"since": "2026-11-24T12:01"}, 0),
    ],
)
def test_filters(
    stored: Stored,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, object],
    attempts: int,
) -> None:
    stored.add("same.1", None)
    stored.add("flips.1", once())

    classify(replay=True, as_json=True, **options)  # type: ignore[arg-type] # parametrised

    assert json.loads(capsys.readouterr().out.splitlines()[-1])["attempts"] == attempts


def test_a_log_that_was_removed_is_only_counted(
    stored: Stored, capsys: pytest.CaptureFixture[str]
) -> None:
    stored.add("flips.1", once())
    asyncio.run(stored.store.delete("logs/flips.1/end.json"))

    classify(replay=True, as_json=True)

    summary = json.loads(capsys.readouterr().out)
    # The facts lay with the log's end.
    assert (summary["flips"], summary["without_facts"]) == (0, 1)


def test_options_of_a_replay_need_replay() -> None:
    with pytest.raises(UsageError, match="need --replay"):
        classify("-", fail_on_flip=True)
    with pytest.raises(UsageError, match="invalid time"):
        classify(replay=True, since="yesterday")
    with pytest.raises(UsageError, match="give one of"):
        classify("-", replay=True)


def test_another_rule_with_the_same_verdict_is_not_a_flip() -> None:
    run = PhaseRun(phase=Phase.FETCH, exit_code=40, duration=1, log_start=0, log_end=len(DNS))
    facts = BuildFacts(job=job("a.1"), phases=(run,))
    before = Errored(cause=Cause.DNS, evidence=Evidence(rule="an-old-rule"))

    found = replay(Judged(facts=facts, outcome=before), {Phase.FETCH: DNS.decode()})

    assert label(found.now) == "errored(dns)"
    assert found.rules_differ
    assert not found.flips


def test_another_package_at_fault_is_a_change() -> None:
    facts = BuildFacts(job=job("a.1"), phases=())
    found = replay(Judged(facts=facts, outcome=once()), {})
    other = found.model_copy(
        update={
            "before": Failed(
                reason=FailureReason.DEPENDENCY, evidence=Evidence(rule="r"), blame="b.1"
            ),
            "now": Failed(
                reason=FailureReason.DEPENDENCY, evidence=Evidence(rule="r"), blame="c.1"
            ),
        }
    )

    assert other.flips


def report(stored: Stored, package: str, expected: str) -> None:
    """Does what a maintainer does who finds a verdict wrong."""
    (attempt,) = stored.index.attempts(AttemptFilter(package=package)).items
    assert attempt.log_key is not None
    kept = asyncio.run(keep_log(stored.store, attempt.log_key))
    made = WrongVerdict(
        at=NOON, login="alice", attempt=attempt, expected=expected, comment="no\nnet", log_key=kept
    )
    stored.index.add_wrong_verdict(made)


def test_reports_of_maintainers_outlive_their_logs(
    stored: Stored, capsys: pytest.CaptureFixture[str]
) -> None:
    stored.add("mended.1", once())
    stored.add("wrong.1", None)
    report(stored, "mended.1", "errored(dns)")
    report(stored, "wrong.1", "failed(source)")
    for each in asyncio.run(stored.store.list("logs")):
        asyncio.run(stored.store.delete(each.key))

    classify(replay=True, wrong_verdicts=True)

    name, dns = "o/r pull/7 build debian-13-ocaml-5.3/amd64", "errored(dns)"
    assert capsys.readouterr().out.splitlines() == [
        (f"{name} wrong.1 1-1: was {dns}, alice expects failed(source); now {dns}: still wrong"),
        "    no net",
        (f"{name} mended.1 1-1: was failed(build), alice expects {dns}; now {dns}: as expected"),
        "    no net",
        "2 reports: 1 as expected now, 1 still wrong, 0 without a log or facts",
    ]
    with pytest.raises(typer.Exit):
        classify(replay=True, wrong_verdicts=True, as_json=True, fail_on_flip=True)
    *_, mended, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert (mended["before"], mended["expected"], mended["now"]) == (
        *("failed(build)", "errored(dns)"),
        "errored(dns)",
    )
    assert (summary["reports"], summary["wrong"]) == (2, 1)


def test_a_log_that_is_gone_cannot_be_kept(stored: Stored) -> None:
    assert asyncio.run(keep_log(stored.store, "logs/gone")) is None
