"""Keys of logs: safe whatever the names are, and never the same for two attempts."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.records import OBJECT_KEY, RevisionKey, log_key

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
JOB = Job(platform="debian-13-ocaml-5.3/amd64", package="cppo.1.8.0", kind=JobKind.BUILD)
RUN = "0198a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
KEY = RevisionKey(repository="ocaml/opam-repository", number=30203, head="a1" * 20, opened_at=NOON)


def branch(name: str) -> RevisionKey:
    return RevisionKey(repository="o/r", branch=name, head="a1" * 20, opened_at=NOON)


def test_a_plain_key_can_be_read_by_people() -> None:
    assert log_key(KEY, JOB, run=RUN, round_=1, attempt=2) == (
        "logs/ocaml/opam-repository/pr-30203/a1a1a1a1a1a1@20260504T120000.000000/"
        "build,debian-13-ocaml-5.3@amd64,cppo.1.8.0/1-2-0c1d2e3f4a5b"
    )


def test_a_key_does_not_depend_on_the_zone_in_which_an_instant_is_written() -> None:
    elsewhere = KEY.model_copy(update={"opened_at": NOON.astimezone(timezone(timedelta(hours=9)))})
    assert log_key(elsewhere, JOB, run=RUN, round_=1, attempt=1) == log_key(
        KEY, JOB, run=RUN, round_=1, attempt=1
    )


HOSTILE = ["../../etc/passwd", ".git", "a b", "a-b", "a/b", "a\n", "-rf", "", "é", "e", "x" * 400]
names = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=120).filter(lambda t: t.isprintable()))


@given(name=names, package=names, platform=names, head=names.filter(bool))
def test_any_names_make_a_well_formed_key(
    name: str, package: str, platform: str, head: str
) -> None:
    key = RevisionKey(repository=name or "r", branch=name, head=head, opened_at=NOON)
    job = Job(platform=platform, package=package, kind=JobKind.REVDEP, revdep=package or "r")
    made = log_key(key, job, run=RUN, round_=1, attempt=1)
    assert OBJECT_KEY.fullmatch(made)
    assert made.count("/") == 6
    assert max(len(part) for part in made.split("/")) <= 200


def test_different_attempts_have_different_keys() -> None:
    revisions = [
        *(branch(name) for name in [*HOSTILE, "30203", "a--b", "x" * 401]),
        KEY,
        KEY.model_copy(update={"opened_at": NOON + timedelta(microseconds=1)}),
        KEY.model_copy(update={"head": "b2" * 20}),
    ]
    jobs = [JOB] + [
        Job(platform=platform, package=package, kind=kind)
        for platform in ("", "a/b", "a@b", "a-b")
        for package in ("p.1", "p 1", "p,1", "p" * 300, "p" * 301)
        for kind in (JobKind.BUILD, JobKind.TEST)
    ]
    keys = [
        log_key(revision, job, run=run, round_=round_, attempt=attempt)
        for revision in revisions
        for job in jobs
        for run in (RUN, f"{RUN[:-1]}c")
        for round_, attempt in ((1, 1), (1, 11), (11, 1))
    ]
    assert len(set(keys)) == len(keys)


@given(one=names, other=names)
def test_different_names_never_share_a_key(one: str, other: str) -> None:
    keys = [log_key(branch(name), JOB, run=RUN, round_=1, attempt=1) for name in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


def test_a_name_cannot_take_the_form_of_another_ones_hash() -> None:
    hashed = log_key(branch("a b"), JOB, run=RUN, round_=1, attempt=1).split("/")[3]
    assert hashed.startswith("branch-a-b=")
    imitation = hashed.removeprefix("branch-")
    assert log_key(branch(imitation), JOB, run=RUN, round_=1, attempt=1).split("/")[3] != hashed


def test_a_revision_is_of_either_a_pull_request_or_a_branch() -> None:
    for fields in ({}, {"number": 1, "branch": "b"}):
        with pytest.raises(ValidationError, match="either a pull request or a branch"):
            RevisionKey.model_validate(
                {"repository": "o/r", "head": "h", "opened_at": NOON, **fields}
            )
