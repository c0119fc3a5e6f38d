"""Every platform of the default file, on images that lack what we assume."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from opam_ci.activities.boundary import outcome_of
from opam_ci.clients.platform_files import load_platforms
from opam_ci.clients.runners.container import ContainerRunner
from opam_ci.clients.runners.settings import ContainerSettings
from opam_ci.core.jobs.build import BuildSpec, PhaseTimeouts, RepositoryRef
from opam_ci.core.jobs.errors import UnfitImageError
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import label
from opam_ci.core.platforms.model import ARCHITECTURES, Platform, Runner
from opam_ci.core.workers.health import Attempt, Health, HealthPolicy, after_attempt
from tests.support.worlds.rootfs import Artifacts, Log

PLATFORMS = load_platforms(None).platforms
CONTAINERS = [
    choice for one in PLATFORMS for choice in one.choices if choice.runner is Runner.CONTAINER
]

CLIENT = """#!/bin/sh
# A container engine whose every image is IMAGE: "shell-less", "opam-less" or "switch-less".
cd "${0%/*}"
while :; do case "$1" in run|exec|rm|image|container) break ;; *) shift ;; esac; done
case "$1 $2" in
"image inspect") printf '[{"Id": "sha256:1", "Architecture": "%s"}]' ARCH ;;
"container inspect") test -e "$3.pid" && echo '[{"State": {}}]' ;;
"run "*)
  while [ "$1" != --name ]; do shift; done
  [ IMAGE != shell-less ] || { echo "no such file: sh"; exit 127; }
  echo $$ > "$2.pid"; echo ready; exec cat > /dev/null ;;
"rm "*) for name; do :; done; kill "$(cat "$name.pid")"; rm -f "$name.pid" ;;
"exec "*)
  for word; do
    case "$word" in
    *opam-ci\\ starts*) printf '\\0opam-ci starts\\n'; running=yes ;;
    esac
    last="$word"
    case "$word" in /usr/bin/opam-*) opam="$word" ;; esac
  done
  if [ -z "$running" ]; then [ IMAGE != opam-less ] || echo "$opam"; exit 0; fi
  case "$last" in
  --version) echo 2.5.0 ;;
  show) echo "No switch is currently set"; exit 50 ;;
  esac ;;
esac
"""

MESSAGES = {
    "shell-less": "the platform's image cannot run sh (no such file: sh): use one that",
    "opam-less": "the image of {name} lacks /usr/bin/opam-{opam}: use one that has what",
    "switch-less": "opam switch show failed (exit 50): No switch is currently set",
}


def test_the_others_have_no_image() -> None:
    names = {one.name for one in CONTAINERS}
    assert {one.runner for one in PLATFORMS if one.name not in names} == {
        Runner.ROOTFS,
        Runner.NATIVE,
    }
    assert len(names) >= 68


def spec(platform: Platform, base: str) -> BuildSpec:
    return BuildSpec(
        job=Job(platform=platform.name, package="a.1", kind=JobKind.BUILD),
        platform=platform,
        repository=RepositoryRef(
            base_commit="b" * 40,
            base_archive=base,
            overlay_archive=base,
            overlay_packages=1,
            package_count=1,
        ),
        timeouts=PhaseTimeouts(),
    )


@pytest.mark.parametrize("image", sorted(MESSAGES))
async def test_an_unfit_image_is_the_fault_of_nobody_else(tmp_path: Path, image: str) -> None:
    (tmp_path / "artifacts").mkdir()
    artifacts = Artifacts(tmp_path / "artifacts")
    base = artifacts.put(b"")
    few = asyncio.Semaphore(8)

    async def refuse(platform: Platform) -> str:
        home = tmp_path / platform.name.replace("/", "_")
        home.mkdir()
        client = home / "podman"
        arch = ARCHITECTURES[platform.arch].oci
        client.write_text(CLIENT.replace("IMAGE", image).replace("ARCH", arch))
        client.chmod(0o755)
        settings = ContainerSettings(home=home, command=str(client), network="host")
        runner = ContainerRunner(settings, artifacts)
        async with few:
            with pytest.raises(UnfitImageError) as caught:
                await runner.run(spec(platform, base), Log(), lambda _: None)
        outcome = outcome_of(caught.value)
        assert label(outcome) == "errored(image)"
        # Two unrelated pull requests: any other fault of that cause would quarantine the worker.
        health, now = Health(), datetime.now(UTC)
        for number in range(2):
            attempt = Attempt(f"pr/o/r/{number}", (f"p{number}.1",), now, now)
            health = after_attempt(health, outcome, attempt, HealthPolicy())
        assert health == Health()
        return str(caught.value)

    found = await asyncio.gather(*map(refuse, CONTAINERS))
    for platform, message in zip(CONTAINERS, found, strict=True):
        assert MESSAGES[image].format(name=platform.name, opam=platform.opam) in message
