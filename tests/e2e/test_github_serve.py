"""`opam-ci serve` for a fake GitHub, with real git, a real Temporal server, and kill -9."""

import html
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.support.worlds.github import GitHubWorld, github_world, opam

# Seconds where nothing else runs.
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("opam_lint"),
]

SUCCESS = "success: "
PREFIX = "pr/ocaml/opam-repository/"

SEEDS = int(os.environ.get("OPAM_CI_TEST_KILL_SEEDS", "2"))
"""Stories with four kills each; 50 and more before a release."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GitHubWorld]:
    with github_world(tmp_path) as made:
        yield made


def test_from_the_webhook_to_the_status_with_annotations(world: GitHubWorld) -> None:
    world.start()
    good = world.commit(1, {"packages/b/b.1/opam": opam()})
    world.do(world.fake.open(1, good))
    world.wait_said(good, SUCCESS)
    world.wait_said(good, SUCCESS, "opam-ci / lint")
    bad = world.commit(2, {"packages/c/c.1/opam": opam('version: "2"\ntags: ["org:x" "x" "x"]')})
    world.do(world.fake.open(2, bad))
    world.wait_said(bad, "failure: Nothing was built: no build was requested; lint failed")
    linter = "opam-ci / lint"
    world.wait(lambda: any(run.annotations for run in world.fake.runs.values()))
    run = next(run for run in world.fake.runs.values() if run.annotations)
    assert (run.wanted["name"], run.wanted["head_sha"]) == (linter, bad)
    lines = opam('version: "2"').decode().splitlines()
    found = {(each["path"], each["start_line"]) for each in run.annotations}
    assert ("packages/c/c.1/opam", lines.index('version: "2"') + 1) in found
    status = world.fake.statuses[bad, "opam-ci"][-1]
    url = f"http://127.0.0.1:{world.pages_port}/ocaml/opam-repository/pull/2"
    assert status["target_url"] == url
    # The page has the text of the status, and links to Temporal for operators.
    # It reads the index, which is written beside GitHub, so it may come a moment later.
    world.wait(lambda: status["description"] in page(url))
    assert "/namespaces/default/workflows/pr%2Focaml%2Fopam-repository%2F2" in page(url)
    world.do(world.fake.close(1, merged=True))
    # The base moves on: the clone follows, although no head is to be fetched.
    tip = world.remote.commit("master", {"packages/n/n.1/opam": opam()}, parents=(world.base,))
    push = {"ref": "refs/heads/master", "before": world.base, "after": tip, "deleted": False}
    world.do(world.fake.emit("push", push, "maintainer"))
    world.wait(lambda: tip in cloned(world))
    log = (world.home / "serve.log").read_text()
    assert world.fake.secret.decode() not in log
    assert "ghs_" not in log


def test_a_merge_turns_its_rival_red_and_costs_others_no_job(world: GitHubWorld) -> None:
    world.environment["OPAM_CI_GITHUB_FOLLOW_INTERVAL"] = "PT1S"
    world.start()
    path = "packages/a/a.1/opam"
    heads = {
        number: world.commit(number, files)
        for number, files in enumerate(
            [
                {path: opam('tags: "one"')},
                {path: opam('tags: "two"')},
                {"packages/b/b.1/opam": opam()},
            ],
            1,
        )
    }
    merged, rival, other = heads.values()
    for number, head in heads.items():
        world.do(world.fake.open(number, head))
    contexts = ("opam-ci", "opam-ci / lint", "opam-ci / revdeps")
    for head in heads.values():
        for context in contexts:
            world.wait_said(head, SUCCESS, context)
    statuses = {key: list(said) for key, said in world.fake.statuses.items() if key[0] == other}
    world.wait(lambda: attempts(world, 3) == [("analysis", 1), ("lint b.1", 1)])

    tip = world.remote.commit("master", {path: opam('tags: "one"')}, parents=(world.base, merged))
    world.do(world.fake.close(1, merged=True))
    push = {"ref": "refs/heads/master", "before": world.base, "after": tip, "deleted": False}
    world.do(world.fake.emit("push", push, "maintainer"))

    for context in contexts:
        world.wait_said(rival, "failure: Analysis failed: Cannot merge to master", context)
    # Once, since it did not differ; and it did look.
    world.wait(lambda: looks(world, 3) == ["started", "completed"])
    assert {key: said for key, said in world.fake.statuses.items() if key[0] == other} == statuses
    assert attempts(world, 3) == [("analysis", 1), ("lint b.1", 1)]
    # The analysis of the rival is another testing of the same head; lint was not run for it.
    world.wait(lambda: attempts(world, 2) == [("analysis", 2), ("lint a.1", 1)])
    url = f"http://127.0.0.1:{world.pages_port}/ocaml/opam-repository/pull/2"
    world.wait(lambda: f"on <code>{tip[:8]}</code>" in page(url))

    # What made the conflict is reverted: the rival is green again, without a push.
    back = world.remote.commit("master", {path: opam()}, parents=(tip,))
    world.do(world.fake.emit("push", push | {"before": tip, "after": back}, "maintainer"))
    for context in contexts:
        world.wait_said(rival, SUCCESS, context)
    assert {key: said for key, said in world.fake.statuses.items() if key[0] == other} == statuses
    assert attempts(world, 3) == [("analysis", 1), ("lint b.1", 1)]


def attempts(world: GitHubWorld, number: int) -> list[tuple[str, int]]:
    """Returns the jobs of a pull request in the index that ran, with their number of attempts."""
    with closing(sqlite3.connect(world.home / "ci" / "index.sqlite")) as index:
        found: list[tuple[str, int]] = index.execute(
            "SELECT jobs.name, count(*) FROM attempts JOIN jobs ON jobs.id = attempts.job_id "
            "JOIN revisions ON revisions.id = jobs.revision_id "
            "JOIN pull_requests ON pull_requests.id = revisions.pull_request_id "
            "WHERE pull_requests.number = ? GROUP BY jobs.name ORDER BY jobs.name",
            (number,),
        ).fetchall()
        return found


def looks(world: GitHubWorld, number: int) -> list[str]:
    """Returns what became of the merges of a decided head into a moved base."""
    shown = temporal(
        world, "workflow", "show", "--workflow-id", f"{PREFIX}{number}", "--output", "json"
    )
    events = json.loads(shown)["events"]
    asked = {
        each["eventId"]
        for each in events
        if each.get("activityTaskScheduledEventAttributes", {}).get("activityType", {}).get("name")
        == "look_at_base"
    }
    return [
        what
        for each in events
        for what in ("started", "completed")
        if each.get(f"activityTask{what.title()}EventAttributes", {}).get("scheduledEventId")
        in asked
    ]


def page(url: str) -> str:
    return html.unescape(httpx.get(url, trust_env=False, timeout=60).raise_for_status().text)


def cloned(world: GitHubWorld) -> str:
    """Returns the branches of the CI's clone with their commits."""
    (clone,) = {each.parent for each in (world.home / "ci" / "clones").rglob("HEAD")}
    words = ["git", f"--git-dir={clone}", "for-each-ref", "refs/heads"]
    return subprocess.run(words, capture_output=True, check=True, text=True, timeout=60).stdout


def test_bad_pull_requests_come_to_clear_ends(world: GitHubWorld) -> None:
    fake = world.fake
    world.start()
    nothing = world.commit(1, {"README.md": b"hello"})
    world.do(fake.open(1, nothing, title="a\x00\x1b[31m\u202e title\n" * 50))
    many = world.commit(2, {f"packages/m/m.{number}/opam": opam() for number in range(3000)})
    world.do(fake.open(2, many, changed_files=3000))
    deleted = world.commit(3, {"packages/d/d.1/opam": opam()})
    world.do(fake.open(3, deleted, fork_deleted=True))
    other = world.commit(4, {"packages/e/e.1/opam": opam()})
    world.do(fake.open(4, other, base_ref="2.0"))
    gone = "f" * 40
    world.commit(5, {"packages/g/g.1/opam": opam()})
    world.do(fake.open(5, gone))
    world.wait_said(nothing, "success: Changes no package: nothing to build or to lint")
    world.wait_said(deleted, SUCCESS)
    # A head that GitHub no longer has: the CI's trouble, said as such, and retried.
    world.wait_said(gone, "CI fault: GitHub request failed")
    world.wait_said(many, "success: Nothing was built: no build was requested")
    assert world.said(other) == "nothing"


def test_other_commands_of_the_set_up(world: GitHubWorld) -> None:
    words = [sys.executable, "-m", "opam_ci.cli.main", "github", "check"]

    def check(**changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            env={**world.environment, **changes},
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )

    done = check()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "permissions and events are complete" in done.stdout
    done = check(OPAM_CI_GITHUB_CLONE_URL="file:///nowhere", OPAM_CI_TEMPORAL="127.0.0.1:1")
    assert done.returncode == 2
    assert "MISSING  clone: file:///nowhere has no branch master" in done.stdout
    assert "MISSING  temporal: no Temporal server responds" in done.stdout
    assert "2 things are missing" in done.stdout
    world.fake.installed = False
    done = check()
    assert (
        "MISSING  access: the GitHub App is not installed on ocaml/opam-repository" in done.stdout
    )
    assert "Traceback" not in done.stdout + done.stderr


Dumps = dict[str, tuple[str, str]]
"""By context, the last that GitHub was told."""


class Story:
    """Five pull requests whose end does not depend on when anything happens."""

    def __init__(self, world: GitHubWorld, first: int, pause: Callable[[], None]) -> None:
        self.world = world
        self.numbers = range(first, first + 5)
        self._pause = pause
        self._heads: dict[int, str] = {}

    def play(self) -> None:
        """Opens, pushes, makes ready, merges; waits for nothing but the verdict before that."""
        fake = self.world.fake
        passes, fails, mended, draft, merged = self.numbers
        for number in self.numbers:
            head = self._commit(number, broken=number == mended)
            self._do(fake.open(number, head, draft=number == draft))
        self._do(fake.push(fails, self._commit(fails, broken=True)))
        self._do(fake.push(mended, self._commit(mended)))
        self._do(fake.ready(draft))
        self.world.wait(lambda: self.said(passes).get("opam-ci", ("", ""))[0] == "success", 150)
        self.world.wait(lambda: self.said(merged).get("opam-ci", ("", ""))[0] == "success", 150)
        self._do(fake.close(merged, merged=True))

    def said(self, number: int) -> Dumps:
        """Returns what the page of a head shows: statuses, and the newest check runs."""
        fake, head = self.world.fake, self._heads[number]
        found = {}
        for (sha, context), all_of in list(fake.statuses.items()):
            if sha == head and all_of:
                found[context] = (all_of[-1]["state"], all_of[-1]["description"])
        for run in list(fake.runs.values()):
            if run.wanted["head_sha"] == head:
                title = run.wanted.get("output", {}).get("title", "")
                words = f"{title}, {len(run.annotations)} annotations"
                verdict = run.wanted.get("conclusion") or "none"
                found[f"check run {run.wanted['name']}"] = (verdict, words)
        return found

    def end(self) -> list[Dumps]:
        return [self.said(number) for number in self.numbers]

    def _commit(self, number: int, *, broken: bool = False) -> str:
        files = {f"packages/p{number}/p{number}.1/opam": opam()}
        if broken:
            files[f"packages/x{number}/x{number}.1/opam"] = opam('version: "9"')
        self._heads[number] = self.world.commit(number, files)
        return self._heads[number]

    def _do(self, act: object) -> None:
        self.world.do(act)
        self._pause()


def wreck(world: GitHubWorld, chance: random.Random, over: threading.Event) -> None:
    """Kills the CI, the Temporal server or both, four times at random, and starts them again."""
    for _ in range(4):
        if over.wait(chance.uniform(0.2, 3)):
            return
        what = chance.choice(["ci", "temporal", "both"])
        if what != "temporal":
            world.kill()
        if what != "ci":
            world.kill_temporal()
            over.wait(chance.uniform(0, 2))
            world.start_temporal()
        if what != "temporal":
            world.start()


@pytest.mark.timeout(500)
@pytest.mark.parametrize("seed", range(1, 1 + SEEDS))
def test_killed_at_random_github_ends_in_the_same_state(world: GitHubWorld, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secrets
    world.start()
    calm = Story(world, 1, pause=lambda: None)
    calm.play()
    verdicts = ["success", "failure", "success", "success", "success"]
    conclusions = [("opam-ci", verdict) for verdict in verdicts]

    def is_settled(story: Story) -> bool:
        # The check run of the overall context is the last that a head is told.
        found = story.end()
        return all(
            said.get(name, ("", ""))[0] == said.get(f"check run {name}", ("", ""))[0] == verdict
            for said, (name, verdict) in zip(found, conclusions, strict=True)
        )

    world.wait(lambda: is_settled(calm))
    wait_running(world, {1, 2, 3, 4})
    wanted = calm.end()
    assert wanted[1]["check run opam-ci / lint"][1] == "Lint (1 of 2) failed, 1 annotations"

    wrecked = Story(world, 11, pause=lambda: time.sleep(chance.uniform(0, 1)))
    over = threading.Event()
    wrecker = threading.Thread(target=wreck, args=(world, random.Random(seed), over))  # noqa: S311 - no secrets
    wrecker.start()
    try:
        wrecked.play()
        wrecker.join(120)
    finally:
        over.set()
        wrecker.join()
    assert world.kills >= 4
    # Deliveries got lost; the comparison with GitHub finds all that they would have said.
    world.wait(lambda: wrecked.end() == wanted, 150)
    wait_running(world, {1, 2, 3, 4, 11, 12, 13, 14})
    assert wrecked.end() == wanted
    assert calm.end() == wanted


def wait_running(world: GitHubWorld, wanted: set[int]) -> None:
    """Waits until exactly these pull requests have a workflow that runs.

    An `opened` that is delivered again within a minute brings a closed pull request's workflow
    back; the close is looked at again after that minute, and ends it.
    """
    end = time.monotonic() + 150
    while (found := running(world)) != wanted:
        if time.monotonic() > end:
            odd = [
                temporal(world, "workflow", "show", "--workflow-id", f"{PREFIX}{number}")
                for number in found ^ wanted
            ]
            pytest.fail(f"these run: {found}\n" + "\n".join(odd))
        time.sleep(0.5)


def running(world: GitHubWorld) -> set[int]:
    query = "WorkflowType='PullRequestWorkflow' AND ExecutionStatus='Running'"
    listed = temporal(world, "workflow", "list", "--query", query, "--output", "json")
    return {
        int(each["execution"]["workflowId"].removeprefix(PREFIX)) for each in json.loads(listed)
    }


def temporal(world: GitHubWorld, *words: str) -> str:
    """Runs the stock Temporal command line."""
    program = Path(sys.executable).with_name("temporal")
    address = ("--address", f"127.0.0.1:{world.temporal_port}")
    done = subprocess.run(
        [program, *words, *address], capture_output=True, check=True, text=True, timeout=60
    )
    return done.stdout
