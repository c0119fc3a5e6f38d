"""Images in the shape of `ocaml/opam`, in podman and docker, and images that lack what we need."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from opam_ci.activities.boundary import outcome_of
from opam_ci.clients.runners.container import ContainerRunner
from opam_ci.clients.runners.containers.registry import ImageResolver, UnknownImageError
from opam_ci.clients.runners.phases import steps
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.core.classify import judge
from opam_ci.core.jobs.errors import UnfitImageError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Passed, label
from opam_ci.core.platforms.model import Platform
from opam_ci.core.workers.health import Attempt, Health, HealthPolicy, after_attempt
from tests.support.fakes.registry import LOGIN, docker_registry
from tests.support.worlds.container import (
    BETA,
    BETA_IMAGE,
    IMAGE,
    OPAM_IMAGE,
    ContainerWorld,
    Engine,
    Storage,
    platform,
    variables,
)
from tests.support.worlds.rootfs import COMPILER, Log

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("containers"),
]

GOOD = {
    "good.1": 'build: ["sh" "-c" "id; uname -m; opam --version; ! touch /usr/written"]\n'
    'depends: "ocaml"\n'
}

BUSYBOX = Path("/bin/busybox")


@pytest.fixture(scope="module")
def world(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> ContainerWorld:
    directory = tmp_path_factory.mktemp(f"images-{engine.command}")
    return ContainerWorld(directory, command=engine.command, image=None)


async def build(world: ContainerWorld, on: Platform, base: dict[str, str] = COMPILER) -> str:
    """Builds a good package; returns the log."""
    log = Log()
    world.platform, world.base = on, base
    spec = world.spec(GOOD, "good.1")
    report = await world.runner.run(spec, log, lambda _: None)
    assert isinstance(judge(report.facts, report.logs), Passed), log.text
    return log.text


async def refused(
    world: ContainerWorld, on: Platform, base: dict[str, str] = COMPILER
) -> tuple[str, str]:
    """Tries to build on an image that is unfit; returns the message, and the log."""
    log = Log()
    world.platform, world.base = on, base
    spec = world.spec(GOOD, "good.1")
    with pytest.raises(UnfitImageError) as caught:
        await world.runner.run(spec, log, lambda _: None)
    outcome = outcome_of(caught.value)
    assert label(outcome) == "errored(image)"
    attempt = Attempt("pr/o/r/1", ("good.1",), datetime.now(UTC), datetime.now(UTC))
    assert after_attempt(Health(), outcome, attempt, HealthPolicy()) == Health()
    return str(caught.value), log.text


@pytest.mark.parametrize("version", ["2.1", "2.3", "2.5", "2.6"])
async def test_the_opam_of_the_platform_builds_in_its_sandbox(
    world: ContainerWorld, engine: Engine, images: Mapping[str, str], version: str
) -> None:
    """opam-repo-ci's `ln -f`; and plain opam, the oldest, made the root with its sandbox off."""
    if engine.command == "docker" and version in {"2.3", "2.5"}:
        pytest.skip("the oldest and the newest are enough for a second engine")
    log = await build(world, platform(images[OPAM_IMAGE], opam=version))
    assert f"opam --version\n{version}." in log
    assert "uid=1000" in log
    assert "touch: cannot touch '/usr/written'" in log


async def test_a_prerelease_and_a_variant_are_found_by_their_packages(
    world: ContainerWorld, images: Mapping[str, str]
) -> None:
    beta = platform(images[BETA_IMAGE], ocaml="5.5~beta1", variant="flambda", opam="2.5")
    log = await build(world, beta, BETA)
    assert "ocaml-variants.5.5.0~beta1+options" in log
    wrong, _ = await refused(world, beta.model_copy(update={"ocaml": "5.5"}), BETA)
    assert "has ocaml-variants.5.5.0~beta1+options, not OCaml 5.5;" in wrong


async def test_an_image_that_is_another_platforms_is_refused(
    world: ContainerWorld, images: Mapping[str, str]
) -> None:
    lacking = {
        "lacks /usr/bin/opam-2.4:": platform(images[OPAM_IMAGE], opam="2.4"),
        "its switch has ocaml-system.5.3.0, not OCaml 5.4;": platform(
            images[OPAM_IMAGE], ocaml="5.4", opam="2.3"
        ),
        "ocaml-system.5.3.0 without flambda;": platform(
            images[OPAM_IMAGE], variant="flambda", opam="2.3"
        ),
        "lacks opam root with a switch in /home/opam/.opam:": platform(
            images[IMAGE], opam="system"
        ),
    }
    for problem, on in lacking.items():
        message, _ = await refused(world, on)
        assert problem in message


@pytest.fixture(scope="module")
def busybox() -> Path:
    if not BUSYBOX.exists():
        pytest.skip("busybox-static is not installed")
    return BUSYBOX


async def test_an_image_without_what_we_assume_is_named_and_refused(
    world: ContainerWorld, engine: Engine, busybox: Path
) -> None:
    engine.import_files("localhost/opam-ci-test:shell-less", {"bin/true": busybox})
    message, _ = await refused(world, platform("localhost/opam-ci-test:shell-less"))
    assert "the platform's image cannot run sh (" in message
    names = ["sh", "cat", "cp", "env", "find", "gzip", "ln", "mkdir", "rm", "sed", "tar", "timeout"]
    applets = {f"bin/{name}": busybox for name in names}
    password = Path("/etc/passwd")
    engine.import_files("localhost/opam-ci-test:small", applets | {"etc/passwd": password})
    message, _ = await refused(world, platform("localhost/opam-ci-test:small", opam="2.5"))
    assert (
        "lacks /usr/bin/opam-2.5, bwrap, curl, opam, GNU tar, bubblewrap 0.5, "
        "user opam with id 1000 and home /home/opam, opam root with a switch in /home/opam/.opam: "
        "use one that has what" in message
    )
    message, _ = await refused(world, platform("localhost/opam-ci-test:small", arch="s390x"))
    assert "is for amd64, not for s390x: correct `image` in the file of platforms" in message
    assert engine.containers() == []
    assert world.job_roots() == []


async def test_an_image_of_no_registry_is_pinned_too(
    world: ContainerWorld, engine: Engine, busybox: Path
) -> None:
    resolver = ImageResolver(engine=engine.command)
    own, absent = "localhost/opam-ci-test:own", "localhost/opam-ci-test:absent"
    engine.import_files(own, {"bin/sh": busybox})
    pinned = await resolver.resolve(own)
    assert "@sha256:" in pinned
    message, log = await refused(world, platform(pinned))
    assert "lacks" in message
    assert f"Image: {pinned} (" in log
    with pytest.raises(UnknownImageError, match=absent):
        await resolver.resolve(absent)
    message, _ = await refused(world, platform(absent))
    assert f"image {absent}: {engine.command} of this machine does not have it" in message


async def test_a_registry_with_a_login(
    engine: Engine, podman: Storage, busybox: Path, tmp_path: Path
) -> None:
    world = ContainerWorld(tmp_path / "world", command=engine.command, image=None)
    podman.import_files("localhost/opam-ci-test:tiny", {"bin/sh": busybox})
    with docker_registry(tmp_path, login=True) as host:
        podman.allow(host)
        login = f"--creds={LOGIN[0]}:{LOGIN[1]}"
        for tag in ("1", "2"):
            to = f"docker://{host}/tiny:{tag}"
            podman.call("push", "--quiet", login, "localhost/opam-ci-test:tiny", to)
        on = platform(f"{host}/tiny:1")
        files = {
            "DOCKER_CONFIG": str(tmp_path),
            "REGISTRY_AUTH_FILE": str(tmp_path / "config.json"),
            "HOME": str(tmp_path),
        }
        with variables(**files):
            (tmp_path / "config.json").write_text("{}")
            message, log = await refused(world, on)
            assert f"registry {host} does not have it, or denies access: HTTP 401" in message
            engine.log_in(host, *LOGIN)
            message, log = await refused(world, on)
            assert "lacks" in message
            assert f"pulling {host}/tiny:1" in log
            file = tmp_path / "config.json"
            right = base64.b64encode(":".join(LOGIN).encode()).decode()
            wrong = base64.b64encode(f"{LOGIN[0]}:forgotten".encode()).decode()
            file.write_text(file.read_text().replace(right, wrong))
            message, log = await refused(world, platform(f"{host}/tiny:2"))
            assert f"registry {host} refuses this machine's login: HTTP 401" in message
        assert LOGIN[1] not in log + message


async def test_a_32_bit_platform_sees_a_32_bit_machine(world: ContainerWorld) -> None:
    runner = world.runner
    assert isinstance(runner, ContainerRunner)
    image = await runner._layers.image(IMAGE, None, lambda _: None)
    async with runner._open(image, Mirrors(), runner._network, "linux32") as (executor, _):
        for as_root in (False, True):
            output = bytearray()
            step = steps.Step(("uname", "-m"), as_root=as_root)
            ended = await executor.run(step, output=output.extend, phase=Phase.SETUP)
            assert ended.ok
            assert output.decode() == "i686\n"
