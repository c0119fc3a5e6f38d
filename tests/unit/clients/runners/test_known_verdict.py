"""A job whose solution has a verdict: when it ends, and what its log explains."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from opam_ci.clients.runners.images.image import ImageManifest
from opam_ci.clients.runners.images.layer import LayerManifest
from opam_ci.clients.runners.job.driver import JobRun
from opam_ci.clients.runners.phases import plan as phases
from opam_ci.clients.runners.phases.phase_log import PhaseLog
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.clients.runners.phases.transcript import Transcript
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.core.jobs.job import Phase
from tests.support.samples.known_verdicts import RAN, known_verdict
from tests.support.samples.specs import SPEC

LISTED = f"{'0' * 64}  ./a/a.1/opam\n".encode()


class Root:
    """A build root in which digests are printed; the log of its job."""

    def __init__(self, printed: bytes = LISTED, ended: ProcessResult | None = None) -> None:
        self.log = b""
        self._printed = printed
        self._ended = ended or ProcessResult(exit_code=0)

    @property
    def size(self) -> int:
        return len(self.log)

    def write(self, data: bytes) -> None:
        self.log += data

    async def run(self, step: Step, *, output: Any, **_: object) -> ProcessResult:
        assert step.argv == phases.DIGESTS.argv
        output(self._printed)
        return self._ended

    async def ends(self, image: str = "e" * 64, **spec: object) -> tuple[bool, str | None]:
        """Returns whether a job ends here, and its key."""
        asked = SPEC.model_copy(update=spec)
        phase_log = PhaseLog(Transcript(self, lambda _: None), asked.timeouts)
        phase_log.begin(Phase.SOLVE, "solve")
        at = datetime(2026, 5, 4, tzinfo=UTC)
        job = JobRun(
            asked,
            self,  # type: ignore[arg-type]  # the part of an executor that is used
            LayerManifest(base_commit="", packages=frozenset(), installed=frozenset(), hidden=0),
            ImageManifest(digest=image, suite="", packages={}, made_at=at),
            phase_log,
            archives=None,
            environment={},
        )
        ends = await job._has_known_verdict()
        if ends:
            # That was decided where the verdict was.
            assert not await job._accepts_failure()
        return ends, job._verdict_key


async def test_it_ends_if_its_key_has_a_verdict() -> None:
    root = Root()
    ends, key = await root.ends()
    assert not ends
    assert key is not None
    known = {key: known_verdict()}
    assert await root.ends(known_verdicts=known) == (True, key)
    text = root.log.decode()
    assert "are the same as for #7 on 04 May 2026: its verdict is used again." in text
    assert RAN.job is not None
    command = f"opam-ci log ocaml/opam-repository/7 --head {'c' * 12} --job '{RAN.job.id}'"
    assert f"Its log: {command} --round 1 --attempt 1" in text
    assert LISTED not in root.log
    # It is built to be compared.
    assert await root.ends(known_verdicts=known, builds_known_failures=True) == (False, key)
    # Nor is one with another key.
    other = Root(LISTED.replace(b"0", b"1"))
    assert (await other.ends(known_verdicts=known))[0] is False


@pytest.mark.parametrize(
    ("root", "image"),
    [
        (Root(ended=ProcessResult(exit_code=1)), "e" * 64),
        (Root(b"x" * (32 << 20)), "e" * 64),
        (Root(), "debian:13"),
    ],
    ids=["failed", "too much", "image by tag"],
)
async def test_what_cannot_be_read_has_no_key(root: Root, image: str) -> None:
    assert await root.ends(image, known_verdicts={"": known_verdict()}) == (False, None)


def digests(directory: Path) -> list[str]:
    command = [*phases.DIGESTS.argv[:-1], str(directory)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return sorted(done.stdout.splitlines())


def test_digests_are_of_every_file(tmp_path: Path) -> None:
    files = tmp_path / "a" / "a.1" / "files"
    files.mkdir(parents=True)
    (files.parent / "opam").write_text("opam")
    (files / "fix").write_text("fix")
    before = digests(tmp_path)
    assert {line.split("  ")[1] for line in before} == {"./a/a.1/files/fix", "./a/a.1/opam"}
    (files / "fix").chmod(0o755)
    executable = digests(tmp_path)
    assert len(executable) == len(before) + 1
    (files / "fix").write_text("other")
    assert not set(digests(tmp_path)) >= set(executable)
    (files / "link").symlink_to("fix")
    with pytest.raises(subprocess.CalledProcessError):
        digests(tmp_path)
