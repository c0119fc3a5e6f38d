"""Images and layers on disk: torn ones are missing, old ones go."""

import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opam_ci.clients.runners.containers.engine import Engine
from opam_ci.clients.runners.containers.layer import ContainerLayer, ContainerLayers
from opam_ci.clients.runners.images import layer as layers
from opam_ci.clients.runners.images.apt_sources import Archives
from opam_ci.clients.runners.images.image import Image, ImageManifest, ImageStore
from opam_ci.clients.runners.images.layer import LayerManifest, LayerStore
from opam_ci.clients.runners.sandbox.bubblewrap import ROOT
from opam_ci.clients.runners.sandbox.locks import HALF_MADE, own_directory, remove_tree, try_lock
from opam_ci.clients.runners.sandbox.network import ContainerNetwork
from opam_ci.clients.runners.sandbox.whole_file import write_whole
from opam_ci.core.jobs.build import BuildSpec, PhaseTimeouts, RepositoryRef
from opam_ci.core.jobs.errors import InfrastructureError, UnfitImageError
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.platforms.debian import DebianRoot
from opam_ci.core.platforms.model import EMBEDDED

TORN = (b"", b"\0" * 200, b'{"base_commit": "')
WEEK = 7 * 86_400
OLD = datetime.now(UTC) - timedelta(days=8)
AT = datetime(2026, 5, 4, tzinfo=UTC)
TRIXIE = DebianRoot(suite="trixie", architecture="amd64")

SPEC = BuildSpec(
    job=Job(platform=EMBEDDED.name, package="a.1", kind=JobKind.BUILD),
    platform=EMBEDDED,
    repository=RepositoryRef(
        base_commit="b" * 40,
        base_archive="base.tar.gz",
        overlay_archive="overlay.tar.gz",
        overlay_packages=1,
        package_count=1,
    ),
    timeouts=PhaseTimeouts(),
)
MANIFEST = LayerManifest(
    base_commit="b" * 40,
    packages=frozenset(),
    installed=frozenset({"ocaml-system.5.3.0"}),
    hidden=0,
)


class Images(ImageStore):
    """Images whose root file system is made by a shell."""

    def _command(self, debian: DebianRoot, archives: Archives, root: Path) -> list[str]:
        made = f"mkdir -p {root}/var/lib/dpkg {root}/var/lib/apt/lists"
        made += (
            f"; touch {root}/var/lib/dpkg/status {root}/var/lib/apt/lists/{debian.suite}_Packages"
        )
        return ["sh", "-c", f"{made}; : {archives.main}", "sh"]


class Layers(LayerStore):
    """Layers that are made at once."""

    made = 0

    async def _make(self, *arguments: object) -> None:
        target = arguments[3]
        assert isinstance(target, Path)
        async with own_directory(self._home, HALF_MADE, ROOT) as half_made:
            (half_made / "upper").mkdir()
            await remove_tree(target, ROOT)
            layers._complete(half_made, MANIFEST, target)
        self.made += 1


class NoArtifacts:
    async def fetch(self, key: str, target: Path) -> None:
        raise AssertionError(key, target)


def outdate(image: Image) -> None:
    """Writes into an image that its package lists have expired."""
    manifest = image.manifest.model_copy(update={"made_at": OLD})
    (image.root.parent / "manifest.json").write_text(manifest.model_dump_json())


def shown(_: str) -> None:
    """Nobody looks at progress."""


@pytest.fixture
def image(tmp_path: Path) -> Image:
    manifest = ImageManifest(digest="d", suite="trixie", packages={}, made_at=AT)
    return Image(root=tmp_path, manifest=manifest)


@pytest.mark.parametrize("torn", TORN)
async def test_layer_with_a_torn_manifest_is_made_anew(
    tmp_path: Path, image: Image, torn: bytes
) -> None:
    store = Layers(tmp_path / "layers", NoArtifacts(), 4, ROOT)
    for _ in range(2):
        async with store.use(image, SPEC, lambda _: None) as layer:
            assert layer.manifest == MANIFEST
        assert store.made == 1
    (layer.upper.parent / "manifest.json").write_bytes(torn)
    async with store.use(image, SPEC, lambda _: None) as layer:
        assert layer.manifest == MANIFEST
    assert store.made == 2


@pytest.mark.parametrize("torn", TORN)
async def test_image_with_a_torn_manifest_is_made_anew(tmp_path: Path, torn: bytes) -> None:
    store = Images(tmp_path / "images", ROOT)
    made = await store.ensure(TRIXIE, Archives(), shown)
    manifest = made.root.parent / "manifest.json"
    manifest.write_bytes(torn)
    assert store.find(TRIXIE, Archives()) is None
    again = await store.ensure(TRIXIE, Archives(), shown)
    assert again.root != made.root
    assert store.find(TRIXIE, Archives()) == again


@pytest.mark.parametrize("torn", TORN)
async def test_container_layer_with_a_torn_description_is_made_anew(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bytes
) -> None:
    store = ContainerLayers(tmp_path / "layers", engine, NoArtifacts(), 4, ContainerNetwork("host"))
    await store.image("host/made", "amd64", shown)
    made: list[Path] = []

    async def make(*arguments: object) -> None:
        target = arguments[4]
        assert isinstance(target, Path)
        system = ImageManifest(digest="d", suite="", packages={}, made_at=AT)
        layer = ContainerLayer(image="host/made", manifest=MANIFEST, system=system)
        write_whole(target, layer.model_dump_json().encode())
        made.append(target)

    monkeypatch.setattr(ContainerLayers, "_make", make)
    for _ in range(2):
        async with store.use("image", SPEC, lambda _: None) as layer:
            assert layer.manifest == MANIFEST
        assert len(made) == 1
    made[0].write_bytes(torn)
    async with store.use("image", SPEC, lambda _: None) as layer:
        assert layer.manifest == MANIFEST
    assert len(made) == 2


async def test_images_of_other_recipes_go_after_a_week_without_use(tmp_path: Path) -> None:
    store = Images(tmp_path / "images", ROOT)
    current = Archives()
    others = [Archives(main=f"http://mirror{number}.example") for number in range(3)]
    made = [await store.ensure(TRIXIE, archives, shown) for archives in (current, *others)]
    past = time.time() - WEEK - 60
    for image in (made[0], made[1], made[2]):
        os.utime(image.root.parent / "manifest.json", (past, past))
    # A killed removal has taken the manifest, and the files are still there.
    remains = tmp_path / "images/remains/rootfs"
    remains.mkdir(parents=True)
    # Somebody makes or removes it.
    held = try_lock(made[2].root.parent.with_suffix(".lock"))
    assert held is not None
    await store.sweep(TRIXIE, current)
    os.close(held)
    assert [image.root.exists() for image in made] == [True, False, True, True]
    assert not remains.parent.exists()
    assert store.find(TRIXIE, others[1]) is not None  # which is a use
    await store.sweep(TRIXIE, current)
    assert [image.root.exists() for image in made] == [True, False, True, True]


async def test_an_old_image_is_made_anew_and_stays_for_those_who_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Images(tmp_path / "images", ROOT)
    first = await store.ensure(TRIXIE, Archives(), shown)
    assert await store.ensure(TRIXIE, Archives(), shown) == first
    outdate(first)
    second = await store.ensure(TRIXIE, Archives(), shown)
    assert second.root != first.root
    assert first.root.exists()
    # Its packages are the same, and what was built over them is of use.
    assert second.manifest.digest == first.manifest.digest
    i386 = TRIXIE.model_copy(update={"architecture": "i386"})
    assert (await store.ensure(i386, Archives(), shown)).manifest.digest != first.manifest.digest

    outdate(second)
    monkeypatch.setattr(Images, "_command", lambda *_: ["false"])
    lines: list[str] = []
    for _ in range(2):
        served = await store.ensure(TRIXIE, Archives(), lines.append)
        assert served.root == second.root
    # The making is not tried for each job.
    assert len([line for line in lines if line.startswith("making")]) == 2
    assert lines[1].endswith("; trying it without the suites of updates")
    assert lines[-1].endswith(f"the one of {OLD:%Y-%m-%d} is used")
    with pytest.raises(InfrastructureError, match="could not be made") as caught:
        await store.ensure(TRIXIE.model_copy(update={"suite": "sid"}), Archives(), shown)
    assert caught.value.cause is Cause.IMAGE


async def test_an_image_is_made_where_the_suites_of_updates_are_out_of_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Images._command

    def command(self: Images, debian: DebianRoot, archives: Archives, root: Path) -> list[str]:
        script = made(self, debian, archives, root)[2]
        return [
            "sh",
            "-c",
            f'test "$*" = "{archives.sources(debian)[0]}" || exit 1; {script}',
            "sh",
        ]

    monkeypatch.setattr(Images, "_command", command)
    lines: list[str] = []
    store = Images(tmp_path / "images", ROOT)
    image = await store.ensure(TRIXIE, Archives(), lines.append)
    assert len([line for line in lines if line.startswith("making")]) == 2
    assert await store.ensure(TRIXIE, Archives(), lines.append) == image


async def test_remains_of_a_killed_removal_of_a_layer_go(tmp_path: Path, image: Image) -> None:
    store = Layers(tmp_path / "layers", NoArtifacts(), 4, ROOT)
    async with store.use(image, SPEC, lambda _: None) as layer:
        pass
    remains = tmp_path / "layers/0123456789abcdef/upper"
    remains.mkdir(parents=True)
    await store.sweep()
    assert not remains.parent.exists()
    assert layer.upper.exists()


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """An engine that keeps images by id and by name; one that is in use is not removed.

    As in docker, a name is that of the architecture that was pulled last.
    """
    images = tmp_path / "engine"
    images.mkdir()
    client = tmp_path / "bin/podman"
    client.parent.mkdir()
    client.write_text(
        f"""#!/bin/sh
cd {images}
[ "$1" = --runtime ] && shift 2
for name; do :; done
file=$(echo "$name" | tr / _)
case "$1 $2" in
"image inspect")
  test -e "$file" && printf '[{{"Id": "sha256:%s", "Architecture": "%s"}}]' $(cat "$file") ;;
"pull --quiet")
  arch=$(basename "$4"); test ! -e one-arch || arch=amd64
  echo "id-$arch-$file $arch" > "id-$arch-$file"; cp "id-$arch-$file" "$file" ;;
"rmi $name")
  plain=${{file#id-*-}}; test ! -e "$plain.used" && rm -f "$file" "$plain" ;;
esac
"""
    )
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    return Engine(str(client), None)


async def test_an_image_of_a_name_is_that_of_the_platforms_architecture(
    engine: Engine, tmp_path: Path
) -> None:
    store = ContainerLayers(tmp_path / "layers", engine, NoArtifacts(), 4, ContainerNetwork("host"))
    pulled: list[str] = []
    for arch in ("amd64", "i386", "amd64", "i386"):
        found = await store.image("host/opam@sha256:list", arch, pulled.append)
        oci = "386" if arch == "i386" else arch
        assert found == f"id-{oci}-host_opam@sha256:list"
    assert len(pulled) == 2
    (tmp_path / "engine/one-arch").touch()
    with pytest.raises(UnfitImageError, match="is for amd64, not for s390x: correct `image`"):
        await store.image("host/single", "s390x", shown)


async def test_images_that_were_pulled_go_after_a_week_without_use(
    engine: Engine, tmp_path: Path
) -> None:
    kept_by_engine = tmp_path / "engine"
    store = ContainerLayers(tmp_path / "layers", engine, NoArtifacts(), 4, ContainerNetwork("host"))
    (kept_by_engine / "operators_own").write_text("operators_own amd64")
    names = [f"host/opam@sha256:{number}" for number in range(4)]
    for name in (*names, "operators/own"):
        await store.image(name, "amd64", shown)
    past = time.time() - WEEK - 60
    for mark in (tmp_path / "layers/pulled").iterdir():
        os.utime(mark, (past, past))
    await store.image(names[1], "amd64", shown)
    in_use = kept_by_engine / f"{names[2].replace('/', '_')}.used"
    in_use.touch()
    await store.image("host/opam@sha256:new", "amd64", shown)

    def images() -> set[str]:
        return {
            path.name
            for path in kept_by_engine.iterdir()
            if path.suffix != ".used" and not path.name.startswith("id-")
        }

    assert images() == {
        "operators_own",
        "host_opam@sha256:1",
        "host_opam@sha256:2",
        "host_opam@sha256:new",
    }
    in_use.unlink()
    await store.sweep()
    assert images() == {"operators_own", "host_opam@sha256:1", "host_opam@sha256:new"}
