"""What deliveries ask for, on GitHub's own examples and on stories of ours."""

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from opam_ci.core.github.action import (
    Action,
    Approve,
    Cancel,
    Closed,
    HeadChanged,
    Ignore,
    Reconcile,
    RefreshBase,
    Restart,
    Tracked,
    UnknownCommand,
)
from opam_ci.core.github.decide import UnreadablePayloadError, decide
from opam_ci.core.jobs.hold import Approval
from opam_ci.core.jobs.selector import RestartSelector, RestartWhich
from tests.support.fakes.github_bodies import Pull, comment, pull_request_whole, repository, user

NAME = "ocaml/opam-repository"
TRACKED = Tracked(repository=NAME, app_id=4242)
REF = TRACKED.ref(7)
HEAD = "1" * 40
BASE = "b" * 40
AT = datetime(2026, 3, 1, tzinfo=UTC)


def asks(event: str, payload: Mapping[str, Any], tracked: Tracked = TRACKED) -> Action:
    whole = {"repository": repository(NAME), "sender": user("carol"), **payload}
    return decide(event, json.dumps(whole).encode(), tracked)


def pull_event(action: str, pull: Pull | None = None, **more: Any) -> Action:
    pull = pull or Pull(number=7, head=HEAD, base=BASE)
    body = pull_request_whole(NAME, pull, AT)
    return asks("pull_request", {"action": action, "pull_request": body, **more})


def said(text: str, *, by: str = "carol", on_issue: bool = False, **more: Any) -> Action:
    issue: dict[str, Any] = {"number": 7, "state": "open", "user": user("alice")}
    if not on_issue:
        issue["pull_request"] = {"url": "https://api.github.com/x"}
    made = comment(NAME, 1, 7, text, by=by, at=AT)
    whole = {"action": "created", "issue": issue | more, "comment": made}
    return asks("issue_comment", whole)


def check(action: str, **more: Any) -> Action:
    run = {
        "head_sha": HEAD,
        "conclusion": "failure",
        "external_id": "pr/ocaml/opam-repository/7",
        "app": {"id": 4242},
        "pull_requests": [],
    }
    button = {"requested_action": {"identifier": more.pop("button")}} if "button" in more else {}
    return asks("check_run", {"action": action, "check_run": run | more, **button})


def restart(*which: RestartWhich, ask: bool = False, head: str | None = HEAD) -> Restart:
    return Restart(
        numbers=(7,),
        head=head,
        selectors=tuple(RestartSelector(which=one) for one in which),
        by="carol",
        check_permission=ask,
    )


def test_every_real_payload_is_accepted_or_ignored_for_a_reason(shared: Path) -> None:
    file = shared / "github" / "webhook-examples.json"
    if not file.is_file():
        pytest.skip("GitHub's example payloads are not in the folder of real data")
    tally: Counter[str] = Counter()
    for event, payloads in json.loads(file.read_text()).items():
        for payload in payloads:
            name = (payload.get("repository") or {}).get("full_name", NAME)
            app = (payload.get(event) or {}).get("app", {}).get("id")
            action = decide(
                event, json.dumps(payload).encode(), Tracked(repository=name, app_id=app)
            )
            tally[f"{event} {action.kind}"] += 1
            assert not isinstance(action, Ignore) or len(action.reason) > 10
    assert tally == {
        "pull_request head_changed": 13,
        "pull_request closed": 2,
        "pull_request ignore": 14,
        "check_run restart": 2,
        "check_run ignore": 7,
        "check_suite restart": 2,
        "check_suite ignore": 7,
        "issue_comment ignore": 9,
        "push refresh_base": 2,
        "push ignore": 5,
        "installation reconcile": 4,
        "installation ignore": 3,
        "installation_repositories reconcile": 2,
        "installation_repositories ignore": 1,
        "ping ignore": 4,
        "status ignore": 4,
    }


@pytest.mark.parametrize(
    ("action", "why"),
    [
        ("opened", "opened"),
        ("reopened", "reopened"),
        ("synchronize", "pushed"),
        ("ready_for_review", "ready"),
        ("converted_to_draft", "drafted"),
    ],
)
def test_heads_are_tested(action: str, why: str) -> None:
    found = pull_event(action)
    assert found == HeadChanged.model_validate(
        {
            "pull_request": REF,
            "head": HEAD,
            "base": BASE,
            "draft": False,
            "why": why,
            "as_of": AT,
            "author": "alice",
            "association": "CONTRIBUTOR",
        }
    )
    assert isinstance(found, HeadChanged)
    assert found.again is (why == "reopened")


@pytest.mark.parametrize(("merged", "why"), [(True, "merged"), (False, "closed")])
def test_closed_pull_requests_are_ended(merged: bool, why: str) -> None:
    pull = Pull(number=7, head=HEAD, base=BASE, state="closed", merged=merged)
    found = pull_event("closed", pull)
    assert isinstance(found, Closed)
    assert (found.pull_request, found.why) == (REF, why)


def test_hostile_title_and_deleted_fork_do_not_matter() -> None:
    pull = Pull(number=7, head=HEAD, base=BASE, title="\x00\x1b]0;x\x07\u202e", fork_deleted=True)
    assert isinstance(pull_event("opened", pull), HeadChanged)


def test_another_base_is_ignored_until_it_becomes_ours_and_ended_when_it_was() -> None:
    other = Pull(number=7, head=HEAD, base=BASE, base_ref="2.0")
    ours = Pull(number=7, head=HEAD, base=BASE)

    def moved(before: str) -> dict[str, Any]:
        return {"base": {"ref": {"from": before}, "sha": {"from": BASE}}}

    assert pull_event("opened", other) == Ignore(reason="base is '2.0', not the tracked 'master'")
    rebased = pull_event("edited", ours, changes=moved("2.0"))
    assert isinstance(rebased, HeadChanged)
    assert rebased.again
    assert pull_event("edited", other, changes=moved("master")) == Closed(
        pull_request=REF, why="moved", as_of=AT
    )
    assert isinstance(pull_event("edited", other, changes=moved("1.2")), Ignore)
    assert isinstance(pull_event("edited", ours, changes={"title": {"from": "x"}}), Ignore)


def test_other_repositories_are_none_of_ours() -> None:
    pull = pull_request_whole(NAME, Pull(number=7, head=HEAD, base=BASE), AT)
    payload = {"action": "opened", "pull_request": pull}
    fork = asks("pull_request", {**payload, "repository": repository("eve/opam-repository")})
    assert fork == Ignore(reason="another repository: eve/opam-repository")
    renamed = asks("pull_request", {**payload, "repository": repository("OCaml/opam-repository")})
    assert isinstance(renamed, HeadChanged)
    assert renamed.pull_request == REF


def test_buttons_restart_their_jobs() -> None:
    assert check("requested_action", button="restart-errors") == restart(RestartWhich.ERRORED)
    assert check("requested_action", button="restart-failed") == restart(RestartWhich.FAILED)
    assert isinstance(check("requested_action", button="rm -rf"), Ignore)


def test_rerun_restarts_what_was_not_green_or_else_all() -> None:
    assert check("rerequested") == restart(RestartWhich.ERRORED, RestartWhich.FAILED)
    assert check("rerequested", conclusion="success") == restart(RestartWhich.ALL)


def test_checks_of_others_are_none_of_ours() -> None:
    assert check("rerequested", app={"id": 1}) == Ignore(reason="a check of another App")
    assert check("rerequested", app=None) == Ignore(reason="a check of another App")


def test_a_check_without_numbers_is_found_by_its_head() -> None:
    found = check("rerequested", external_id="something else")
    assert isinstance(found, Restart)
    assert (found.numbers, found.head) == ((), HEAD)


def test_pull_requests_of_other_repositories_in_a_check_are_left_out() -> None:
    ours = {"number": 3, "base": {"repo": {"id": repository(NAME)["id"]}}}
    theirs = {"number": 4, "base": {"repo": {"id": 1}}}
    suite = {"head_sha": HEAD, "app": {"id": 4242}, "pull_requests": [theirs, ours]}
    found = asks("check_suite", {"action": "rerequested", "check_suite": suite})
    assert isinstance(found, Restart)
    assert found.numbers == (3,)
    assert found.selectors == (RestartSelector(which=RestartWhich.ALL),)


def test_commands_of_others_need_a_permission_and_those_of_the_author_none() -> None:
    assert said("/opam-ci restart failed") == restart(RestartWhich.FAILED, ask=True, head=None)
    assert said("/opam-ci cancel") == Cancel(pull_request=REF, by="carol", check_permission=True)
    by_author = said("/opam-ci cancel", by="alice")
    assert by_author == Cancel(pull_request=REF, by="alice", check_permission=False)
    assert isinstance(said("/opam-ci dance"), UnknownCommand)
    restarted = said("/opam-ci restart", by="Alice")
    assert isinstance(restarted, Restart)
    assert (restarted.check_permission, restarted.by_author) == (False, True)


@pytest.mark.parametrize("by", ["alice", "carol"])
def test_nobody_approves_without_a_permission_not_even_the_author(by: str) -> None:
    for text, always in (("/opam-ci ok", False), ("/opam-ci ok always", True)):
        approval = Approval(as_of=AT, always=always)
        assert said(text, by=by) == Approve(pull_request=REF, by=by, approval=approval)


def test_a_head_has_its_author() -> None:
    opened = pull_event("opened", Pull(number=7, head=HEAD, base=BASE, association="NONE"))
    assert isinstance(opened, HeadChanged)
    assert (opened.author, opened.association) == ("alice", "NONE")


@pytest.mark.parametrize(
    "ignored",
    [
        said("looks good"),
        said("/opam-ci cancel", by="other-ci[bot]"),
        said("/opam-ci cancel", on_issue=True),
        said("/opam-ci cancel", state="closed"),
    ],
)
def test_other_comments_are_ignored(ignored: Action) -> None:
    assert isinstance(ignored, Ignore)


def test_push_to_the_tracked_branch_refreshes_the_clone() -> None:
    push = {"ref": "refs/heads/master", "after": HEAD}
    assert asks("push", push) == RefreshBase(head=HEAD)
    assert isinstance(asks("push", {**push, "ref": "refs/heads/other"}), Ignore)
    gone = {**push, "after": "0" * 40, "deleted": True}
    assert asks("push", gone) == Ignore(reason="the tracked branch was deleted")


def test_new_installation_is_caught_up_with() -> None:
    assert isinstance(asks("installation", {"action": "created"}), Reconcile)
    assert isinstance(asks("installation", {"action": "suspend"}), Ignore)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"action":"opened"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"action":"opened","pull_request":{"number":1e999}}',
    ],
)
@pytest.mark.parametrize("event", ["pull_request", "check_run", "push", "issue_comment"])
def test_invalid_payload_is_rejected_in_one_line(event: str, body: bytes) -> None:
    with pytest.raises(UnreadablePayloadError) as caught:
        decide(event, body, TRACKED)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sha", ["HEAD", "1" * 39, HEAD + "\n", "--upload-pack=x", "G" * 40, None])
def test_a_head_is_an_object_id_and_nothing_else(sha: str | None) -> None:
    body = pull_request_whole(NAME, Pull(number=7, head=HEAD, base=BASE), AT)
    body["head"]["sha"] = sha
    with pytest.raises(UnreadablePayloadError, match=r"pull_request\.head\.sha"):
        asks("pull_request", {"action": "opened", "pull_request": body})
