"""What tests of the container runner need: engines, images, a store of their own."""

import asyncio
import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from opam_ci.clients.runners.container import ContainerRunner
from opam_ci.clients.runners.rootfs import RootfsRunner, RootfsSettings
from opam_ci.clients.runners.settings import ContainerSettings, JobLimits
from opam_ci.core.platforms.model import EMBEDDED, Platform, Runner
from tests.support.worlds.opams import opams
from tests.support.worlds.rootfs import COMPILER, LOOPBACK, Artifacts, World, repository

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
OPAM_IMAGE = "localhost/opam-ci-test:opam"
"""In the shape of `ocaml/opam:debian-13-ocaml-5.3`."""

BETA_IMAGE = "localhost/opam-ci-test:beta"
"""The same of `ocaml/opam:debian-13-ocaml-5.5-beta1-flambda`."""

BETA = {
    "ocaml-variants.5.5.0~beta1+options": "flags: compiler\n",
    "ocaml-option-flambda.1": 'depends: ["ocaml-variants"]\n',
    "ocaml.5.5.0": 'depends: ["ocaml-variants" {>= "5.5.0~"}]\n',
}

# What docker-base-images and ocaml-dockerfile do: opams side by side, of which the oldest is plain
# opam; its sandbox off in ~/.opamrc; a clone of opam-repository; one switch, named by the release.
_SHAPE = """
set -e
tar --extract --no-same-owner --directory /
cd /usr/bin
[ -e opam-2.3 ] || mv opam opam-2.3
ln -f opam-2.1 opam
cat > /home/opam/.opamrc <<END
wrap-build-commands: []
wrap-install-commands: []
wrap-remove-commands: []
required-tools: []
END
chown -R 1000:1000 /home/opam
exec setpriv --reuid=1000 --regid=1000 --clear-groups env --ignore-environment \
  HOME=/home/opam PATH=/usr/bin:/bin OPAMYES=1 SWITCH="$1" PACKAGES="$2" sh -ec '
cd ~/opam-repository
git init --quiet .
git add --all
git -c user.name=x -c user.email=x@example.org commit --quiet --message=x
if [ -e ~/.opam ]; then opam update
else opam init --kind=git --bare --no-setup default ~/opam-repository; fi
rm -rf ~/.opam/repo/default/.git
opam switch create "$SWITCH" --packages="$PACKAGES"
opam pin add --kind=version "${PACKAGES%%.*}" "$(echo "${PACKAGES%%,*}" | cut -d. -f2-)"
'
"""


class ContainerWorld(World):
    """A container runner whose image is the root file system of the other runner."""

    def __init__(
        self,
        directory: Path,
        *,
        limits: JobLimits | None = None,
        command: str = "podman",
        image: str | None = IMAGE,
    ) -> None:
        self.platform, self.base = EMBEDDED, COMPILER
        self.home = directory / "home"
        self.home.mkdir(parents=True)
        (directory / "artifacts").mkdir()
        self.artifacts = Artifacts(directory / "artifacts")
        self.runner = ContainerRunner(
            ContainerSettings(
                home=self.home,
                command=command,
                image=image,
                limits=limits or JobLimits(),
                network_allow=LOOPBACK,
            ),
            self.artifacts,
        )

    def job_roots(self) -> list[Path]:
        return list((self.home / "containers").glob("job-*"))


def platform(image: str, **fields: object) -> Platform:
    """A platform of an image in the shape of `ocaml/opam`."""
    return Platform.model_validate(
        {
            "distribution": "debian-13",
            "ocaml": "5.3",
            "arch": "amd64",
            "pool": "linux-amd64-containers",
            "runner": Runner.CONTAINER,
            "image": image,
            "compiler": "",
            **fields,
        }
    )


@contextmanager
def variables(**values: str) -> Iterator[None]:
    """Sets variables of the environment for the time of a block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


class Engine:
    """A container engine with a storage of its own.

    Attributes:
        command: Its client.
        environment: What its client needs.
    """

    command = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment: dict[str, str] = {}

    def call(self, *words: str) -> str:
        """Calls the engine."""
        return self._run([self.command, *words]).stdout.decode()

    def containers(self) -> list[str]:
        """Names of all its containers."""
        return self.call("ps", "--all", "--format", "{{.Names}}").split()

    def import_files(self, image: str, files: Mapping[str, Path], *options: str) -> None:
        """Makes an image of a few programs.

        Args:
            image: Its name.
            files: Files of this machine, by their paths in the image.
            options: Of the engine's `import`.
        """
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for name, path in files.items():
                tar.add(path.resolve(), name)
        self._run([self.command, "import", *options, "-", image], data.getvalue())

    def log_in(self, host: str, user: str, password: str) -> None:
        """Logs in to a registry."""
        words = ["login", "--username", user, "--password-stdin", host]
        self._run([self.command, *words], password.encode())

    def _run(
        self, words: list[str], data: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            words,
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            env=os.environ | self.environment,
            capture_output=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == 0, f"{words}: {done.stdout.decode()}{done.stderr.decode()}"
        return done


class Storage(Engine):
    """podman with a storage that is removed afterwards; nobody else's images are touched."""

    command = "podman"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._root = directory / "root"
        storage, registries = directory / "storage.conf", directory / "registries.conf"
        storage.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self._root}"\n'
            f'runroot = "{directory / "run"}"\n'
        )
        registries.write_text("")
        self.environment = {
            "CONTAINERS_STORAGE_CONF": str(storage),
            "CONTAINERS_REGISTRIES_CONF": str(registries),
        }
        self._active = variables(**self.environment)
        self._active.__enter__()

    def podman(self, *words: str) -> str:
        return self.call(*words)

    def allow(self, host: str) -> None:
        """Makes a registry without TLS usable."""
        with Path(self.environment["CONTAINERS_REGISTRIES_CONF"]).open("a") as file:
            file.write(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')

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

    def make_opam_images(self) -> None:
        """Makes the images in the shape of `ocaml/opam`, of that image."""
        files = {f"home/opam/opam-repository/{name}": text for name, text in _files(COMPILER)}
        self._commit(IMAGE, OPAM_IMAGE, files, opams(), "5.3", "ocaml-system.5.3.0,ocaml.5.3.0")
        beta = {f"home/opam/opam-repository/{name}": text for name, text in _files(BETA)}
        self._commit(OPAM_IMAGE, BETA_IMAGE, beta, None, "5.5~beta1", ",".join(BETA))

    def _commit(  # noqa: PLR0913, PLR0917 - what an image is made of
        self,
        base: str,
        image: str,
        files: Mapping[str, str],
        root: Path | None,
        switch: str,
        packages: str,
    ) -> None:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text.encode())
                tar.addfile(member, io.BytesIO(text.encode()))
            if root is not None:
                for path in filter(Path.is_file, root.rglob("*")):
                    tar.add(path, str(path.relative_to(root)))
        name = f"opam-ci-{image.rpartition(':')[2]}"
        run = ["run", "--interactive", "--name", name, "--network", "none", "--user", "0:0"]
        script = ["--entrypoint", "sh", base, "-c", _SHAPE, "sh", switch, packages]
        self._run([self.command, *run, *script], data.getvalue())
        # As theirs: whatever is not asked for otherwise runs as this user, by opam.
        changes = ("USER opam", 'ENTRYPOINT ["opam", "exec", "--"]', "ENV OPAMYES=1")
        options = [word for change in changes for word in ("--change", change)]
        self.call("commit", "--quiet", *options, name, image)
        self.call("rm", name)

    def remove(self) -> None:
        self._run_any(["podman", "rmi", "--all", "--force"])
        self._run_any(["umount", "--lazy", str(self._root / "overlay")])
        shutil.rmtree(self._root, ignore_errors=True)
        self._active.__exit__(None, None, None)

    def _run_any(self, words: list[str]) -> None:
        subprocess.run(words, capture_output=True, check=False, timeout=120)


class Docker(Engine):
    """A docker daemon of a test's own."""

    command = "docker"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        for program in ("dockerd", "docker"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed")
        socket = f"unix://{directory / 'docker.sock'}"
        (directory / "config.json").write_text("{}")
        self.environment = {"DOCKER_HOST": socket}
        self._log = directory / "log"
        places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("dockerd", "--host", socket, "--config-file", directory / "config.json"),
                    *(f"--{name}={directory / place}" for name, place in places.items()),
                    # It changes nothing of the machine's network.
                    *("--bridge=none", "--iptables=false", "--ip6tables=false"),
                ],
                stdout=log,
                stderr=log,
            )
        try:
            self._wait()
        except BaseException:
            self._end()
            raise
        self._active = variables(**self.environment)
        self._active.__enter__()

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"dockerd does not start here: {self._log.read_text()[-300:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        words = ["docker", "version"]
        environment = os.environ | self.environment
        done = subprocess.run(words, env=environment, capture_output=True, check=False, timeout=30)
        return done.returncode == 0

    def remove(self) -> None:
        self._end()
        self._active.__exit__(None, None, None)

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # It mounts its data on themselves, and leaves that. Not in a namespace of its own: it must
        # see what a worker mounts for a container.
        points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for point in reversed(points):
            if point.startswith(f"{self.directory}/"):
                subprocess.run(["umount", point], check=True, timeout=30)
        shutil.rmtree(self.directory, ignore_errors=True)


def _files(packages: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """The files of an opam repository."""
    with tarfile.open(fileobj=io.BytesIO(repository(packages)), mode="r:gz") as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            yield member.name, file.read().decode()
