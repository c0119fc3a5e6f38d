"""Which root file system a platform gets, and which platforms have none on a machine."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from opam_ci.clients.runners import rootfs
from opam_ci.clients.runners.images.image import Image, ImageManifest, ImageStore
from opam_ci.clients.runners.rootfs import RootfsRunner, RootfsSettings
from opam_ci.core.jobs.build import BuildProgress, BuildSpec, RepositoryRef
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import IMAGE_UNFIT, Cause
from opam_ci.core.platforms.debian import DebianRoot
from opam_ci.core.platforms.model import EMBEDDED, Platform
from tests.support.worlds.rootfs import Artifacts, Log

PACKAGES = {
    "bookworm": {"ocaml": "4.13.1-4", "opam": "2.1.2-1+deb12u1"},
    "trixie": {"ocaml": "5.3.0-3", "opam": "2.3.0-1+deb13u2"},
    "testing": {"ocaml": "5.4.1-1", "opam": "2.5.2-1"},
    "unstable": {"ocaml": "5.4.1-1", "opam": "2.6.1-1"},
}


RULES: list[str] = []
"""Those of the faults of all jobs, the newest last."""


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[DebianRoot]:
    """The roots that are asked for; all are there."""
    found: list[DebianRoot] = []

    async def ensure(
        _self: ImageStore, debian: DebianRoot, _archives: object, show: Callable[[str], None]
    ) -> Image:
        found.append(debian)
        show("it is made")
        manifest = ImageManifest(
            digest="d",
            suite=debian.suite,
            packages=PACKAGES[debian.suite],
            made_at=datetime.now(UTC),
        )
        return Image(root=tmp_path, manifest=manifest)

    monkeypatch.setattr(ImageStore, "ensure", ensure)
    monkeypatch.setattr(rootfs, "machine_name", lambda: "x86_64")
    return found


def platform(name: str, **further: Any) -> Platform:
    distribution, _, rest = name.partition("-ocaml-")
    ocaml, _, arch = rest.partition("/")
    values = {"distribution": distribution, "ocaml": ocaml, "arch": arch, **further}
    return EMBEDDED.model_copy(update=values)


async def run(tmp_path: Path, of: Platform) -> str:
    """Runs a job for which there is no repository; returns the fault."""
    progress: list[BuildProgress] = []
    log = Log()
    settings = RootfsSettings(home=tmp_path / "home")
    runner = RootfsRunner(settings, Artifacts(tmp_path))
    spec = BuildSpec(
        job=Job(platform=of.name, package="a.1", kind=JobKind.BUILD),
        platform=of,
        repository=RepositoryRef(
            base_commit="0" * 40,
            base_archive="absent",
            overlay_archive="absent",
            overlay_packages=1,
            package_count=1,
        ),
    )
    with pytest.raises(InfrastructureError) as caught:
        await runner.run(spec, log, progress.append)
    RULES.append(caught.value.evidence.rule)
    if progress:
        assert log.text.startswith("[opam-ci] it is made\n")
        assert [each.note for each in progress][:2] in (
            ["root file system"],
            ["root file system", ""],
        )
    return f"{caught.value.cause}: {caught.value}"


@pytest.mark.parametrize(
    ("name", "suite", "architecture"),
    [
        ("debian-12-ocaml-4.13/amd64", "bookworm", "amd64"),
        ("debian-13-ocaml-5.3/amd64", "trixie", "amd64"),
        ("debian-13-ocaml-5.3/i386", "trixie", "i386"),
        ("debian-testing-ocaml-5.4/amd64", "testing", "amd64"),
        ("debian-unstable-ocaml-5.4/amd64", "unstable", "amd64"),
    ],
)
async def test_a_platform_gets_the_root_of_its_distribution(
    tmp_path: Path, wanted: list[DebianRoot], name: str, suite: str, architecture: str
) -> None:
    # Only its repository is missing.
    assert await run(tmp_path, platform(name)) == f"{Cause.STORAGE}: no artifact absent"
    assert wanted == [DebianRoot(suite=suite, architecture=architecture)]


@pytest.mark.parametrize(
    ("of", "fault"),
    [
        (
            platform("alpine-3.23-ocaml-5.4/amd64"),
            (
                "no root file system is made of alpine-3.23, only of debian-12, debian-13, "
                "debian-testing, debian-unstable: give alpine-3.23-ocaml-5.4/amd64 another runner "
                "in the file of platforms"
            ),
        ),
        (
            platform("debian-13-ocaml-5.3/arm64"),
            (
                "this machine (x86_64) does not run arm64: a job on debian-13-ocaml-5.3/arm64 "
                "belongs into the pool of other machines"
            ),
        ),
        (
            platform("debian-13-ocaml-5.4/amd64"),
            (
                "debian-13/amd64 has OCaml 5.3, not 5.4: correct debian-13-ocaml-5.4/amd64 in "
                "the file of platforms"
            ),
        ),
        (
            platform("debian-12-ocaml-4.13/amd64", variant="flambda"),
            (
                "debian-12/amd64 has OCaml 4.13, not 4.13-flambda: correct "
                "debian-12-ocaml-4.13-flambda/amd64 in the file of platforms"
            ),
        ),
        (
            platform("debian-12-ocaml-4.13/amd64", opam="2.5"),
            (
                "debian-12/amd64 has opam 2.1, not 2.5: correct "
                "debian-12-ocaml-4.13-opam-2.5/amd64 in the file of platforms"
            ),
        ),
    ],
)
async def test_what_is_not_the_platforms_is_said(
    tmp_path: Path, wanted: list[DebianRoot], of: Platform, fault: str
) -> None:
    assert await run(tmp_path, of) == f"{Cause.IMAGE}: {fault}"
    assert RULES[-1] == IMAGE_UNFIT
    assert wanted == [] or fault.startswith(of.distribution)


@pytest.mark.parametrize(
    ("name", "cause", "is_unfit"),
    [
        ("debian-12-ocaml-4.13/amd64", Cause.IMAGE, True),
        ("debian-12-ocaml-4.13/amd64", Cause.STORAGE, False),
        # The one that a probe of the worker uses: a fault of its own.
        ("debian-13-ocaml-5.3/amd64", Cause.IMAGE, False),
    ],
)
async def test_a_root_that_cannot_be_made_is_a_fault_of_its_platform_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, cause: Cause, *, is_unfit: bool
) -> None:
    async def ensure(*_: object) -> Image:
        raise InfrastructureError("the mirror is down", cause=cause)

    monkeypatch.setattr(ImageStore, "ensure", ensure)
    monkeypatch.setattr(rootfs, "machine_name", lambda: "x86_64")
    assert await run(tmp_path, platform(name)) == f"{cause}: the mirror is down"
    assert (RULES[-1] == IMAGE_UNFIT) is is_unfit


async def test_a_release_of_opam_may_be_named(tmp_path: Path, wanted: list[DebianRoot]) -> None:
    named = platform("debian-12-ocaml-4.13/amd64", opam="2.1")
    assert await run(tmp_path, named) == f"{Cause.STORAGE}: no artifact absent"
    assert len(wanted) == 1
