"""The base itself is checked by a schedule: real builds, `opam-ci health`, and its page."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from opam_ci.cli import debian
from opam_ci.clients.runners.settings import default_home as default_cache
from tests.support.fakes import opam_repository
from tests.support.worlds.github import GitHubWorld, github_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("opam_lint")]

PLATFORM = "debian-13-ocaml-5.3/amd64"
OCAML = 'depends: "ocaml"\n'


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GitHubWorld]:
    with github_world(tmp_path) as made:
        made.words = ("--build", "--platform", PLATFORM)
        made.environment |= {
            "OPAM_CI_CANARY": "false",
            "OPAM_CI_CACHE": str(default_cache()),
            "OPAM_CI_POOLS": '["linux-amd64"]',
            "OPAM_CI_GITHUB_HEALTH_PACKAGES": "3",
        }
        yield made


def command(world: GitHubWorld, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "opam_ci.cli.main", *words],
        env=world.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


def health(world: GitHubWorld, *words: str) -> dict[str, dict[str, str]]:
    done = command(world, "health", "--json", *words)
    found = map(json.loads, done.stdout.splitlines())
    return {each["package"]: each for each in found} if done.returncode == 0 else {}


def test_the_schedule_builds_what_most_depend_on(world: GitHubWorld) -> None:
    if missing := debian.missing():
        pytest.skip(f"not installed: {', '.join(missing)}")
    passes, fails = 'build: ["true"]\n', 'build: ["false"]\n'
    needs = 'depends: ["ocaml" "good" "bad"]\n'
    files = {
        **opam_repository.package("good.1", passes + 'run-test: ["false"]\n' + OCAML),
        **opam_repository.package("good.2", passes + 'run-test: ["true"]\n' + OCAML),
        **opam_repository.package("bad.1", fails + OCAML),
        **opam_repository.package("a.1", passes + needs),
        **opam_repository.package("b.1", passes + needs),
    }
    opam_repository.write(world.remote.path, files, {})
    base = world.remote.git("rev-parse", "master")
    world.start()

    def is_decided() -> bool:
        found = health(world, "--all")
        return bool(found) and all(
            each["build"].partition("(")[0] in {"passed", "failed"} for each in found.values()
        )

    world.wait(is_decided, 300)
    world.wait(lambda: health(world, "--all")["good.2"].get("test") == "passed", 120)
    assert {name: each["build"] for name, each in health(world, "--all").items()} == {
        "ocaml.5.3.0": "passed",
        "good.2": "passed",
        "bad.1": "failed(build)",
    }
    # Without --all, what needs attention; for tools, and at a terminal.
    assert list(health(world)) == ["bad.1"]
    done = command(world, "health", f"{world.fake.full_name}:master", "--package", "b*")
    assert done.stdout.split("\t")[:3] == ["bad.1", PLATFORM, "failed(build)"]
    assert f"{world.fake.full_name}:master at {base[:12]}, " in done.stderr
    assert " ago: 1 failed" in done.stderr
    done = command(world, "jobs", f"{world.fake.full_name}:master", "--count", "--kind", "lint")
    assert done.stdout == "no jobs\n"
    # Nothing is posted, and its page is that of a branch.
    assert not world.fake.statuses
    url = f"http://127.0.0.1:{world.pages_port}/{world.fake.full_name}/heads/master"
    page = httpx.get(url, trust_env=False, timeout=60).raise_for_status().text
    assert "bad.1" in page
    assert "good.2" in page
