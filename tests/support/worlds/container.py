"""What tests of the container runner need: an engine, an image, a store of their own."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

from opam_ci.clients.runners.container import ContainerRunner
from opam_ci.clients.runners.rootfs import RootfsRunner, RootfsSettings
from opam_ci.clients.runners.settings import ContainerSettings, JobLimits
from opam_ci.core.platforms.model import EMBEDDED
from tests.support.worlds.rootfs import COMPILER, LOOPBACK, Artifacts, World

# The packages of these tests compile nothing; importing takes time by the megabyte.
_LEFT_OUT = (
    "usr/bin/*-lto-dump-*",
    "usr/bin/ocaml[a-bd-z]*",
    "usr/include",
    "usr/lib/*/ocaml",
    "usr/lib/gcc",
    "usr/libexec/gcc",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
)

IMAGE = "localhost/opam-ci-test:debian"


class ContainerWorld(World):
    """A container runner whose image is the root file system of the other runner."""

    def __init__(self, directory: Path, *, limits: JobLimits | None = None) -> None:
        self.platform, self.base = EMBEDDED, COMPILER
        self.home = directory / "home"
        self.home.mkdir(parents=True)
        (directory / "artifacts").mkdir()
        self.artifacts = Artifacts(directory / "artifacts")
        self.runner = ContainerRunner(
            ContainerSettings(
                home=self.home,
                image=IMAGE,
                limits=limits or JobLimits(),
                network_allow=LOOPBACK,
            ),
            self.artifacts,
        )

    def job_roots(self) -> list[Path]:
        return list((self.home / "containers").glob("job-*"))


class Storage:
    """An engine's storage that is removed afterwards; nobody else's images are touched."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._root = directory / "root"
        configuration = directory / "storage.conf"
        configuration.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self._root}"\n'
            f'runroot = "{directory / "run"}"\n'
        )
        os.environ["CONTAINERS_STORAGE_CONF"] = str(configuration)

    def podman(self, *words: str) -> str:
        return subprocess.run(
            ["podman", *words], capture_output=True, text=True, check=True, timeout=120
        ).stdout

    def import_image(self) -> None:
        runner = RootfsRunner(RootfsSettings(), Artifacts(self._root))
        image = asyncio.run(runner.prepare(lambda _: None))
        left_out = [f"--exclude=./{path}" for path in _LEFT_OUT]
        tar = ["tar", "--directory", str(image.root), "--one-file-system", *left_out]
        tar += ["--create", "."]
        with subprocess.Popen(tar, stdout=subprocess.PIPE) as archive:
            subprocess.run(
                ["podman", "import", "--quiet", "-", IMAGE],
                stdin=archive.stdout,
                capture_output=True,
                check=True,
                timeout=200,
            )

    def remove(self) -> None:
        subprocess.run(
            ["podman", "rmi", "--all", "--force"], capture_output=True, check=False, timeout=120
        )
        subprocess.run(
            ["umount", "--lazy", str(self._root / "overlay")], capture_output=True, check=False
        )
        shutil.rmtree(self._root, ignore_errors=True)
        del os.environ["CONTAINERS_STORAGE_CONF"]
