"""Several versions of opam from several suites of Debian, for one root file system of trixie."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from opam_ci.clients.runners.images import apt_sources
from opam_ci.clients.runners.settings import default_home

SUITES = {"2.1": "bookworm", "2.5": "forky", "2.6": "sid"}
"""Suite of each version besides trixie's own, 2.3."""

VERSIONS = ("2.1", "2.3", "2.5", "2.6")

# Those of newer suites need a newer C library than trixie's.
_LIBRARY = "/usr/lib/opams"
_LOADER = "ld-linux-x86-64.so.2"
_START = f"""#!/bin/sh
exec {_LIBRARY}/{_LOADER} --library-path {_LIBRARY}:/usr/lib/x86_64-linux-gnu \
{_LIBRARY}/opam-VERSION "$@"
"""


def opams() -> Path:
    """Returns a directory with what an image gets: `usr/bin/opam-2.1` and so on.

    It is made once a user, of 20 MB from the machine's own mirror, in some ten seconds.
    """
    made = default_home().with_name("opam-ci-test-opams")
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent, prefix="opam-ci-") as directory:
            _make(Path(directory))
            (Path(directory) / "root").rename(made)
    return made


def _make(directory: Path) -> None:
    packages = {"libc6": "sid"} | {f"opam-{version}": suite for version, suite in SUITES.items()}
    apt = _apt(directory, sorted(set(packages.values())))
    binaries, library = directory / "root/usr/bin", directory / f"root{_LIBRARY}"
    for each in (binaries, library):
        each.mkdir(parents=True)
    for name, suite in packages.items():
        unpacked = directory / name
        unpacked.mkdir()
        _run(*apt, "download", f"{name.partition('-')[0]}/{suite}", directory=unpacked)
        [package] = unpacked.glob("*.deb")
        _run("dpkg", "--extract", str(package), str(unpacked), directory=unpacked)
    shutil.copy(directory / "opam-2.1/usr/bin/opam", binaries / "opam-2.1")
    for name in (_LOADER, "libc.so.6", "libm.so.6"):
        shutil.copy(directory / f"libc6/usr/lib/x86_64-linux-gnu/{name}", library)
    for version in ("2.5", "2.6"):
        shutil.copy(directory / f"opam-{version}/usr/bin/opam", library / f"opam-{version}")
        start = binaries / f"opam-{version}"
        start.write_text(_START.replace("VERSION", version))
        start.chmod(0o755)


def _apt(directory: Path, suites: list[str]) -> tuple[str, ...]:
    """Returns the start of commands of an apt with those suites, apart from the machine's."""
    mirror = apt_sources.read_host().main
    # Suites under development are often snapshots here, whose lists have expired.
    options = "signed-by=/usr/share/keyrings/debian-archive-keyring.pgp check-valid-until=no"
    lines = [f"deb [{options}] {mirror} {suite} main\n" for suite in suites]
    (directory / "sources.list").write_text("".join(lines))
    for each in ("state/lists/partial", "cache/archives/partial"):
        (directory / each).mkdir(parents=True)
    (directory / "status").touch()
    settings = {
        "Dir::Etc::SourceList": directory / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": directory / "state",
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory / "cache",
        # Its user may not see the directories of tests.
        "APT::Sandbox::User": "root",
        "APT::Architecture": "amd64",
        "Acquire::Languages": "none",
    }
    apt = ("apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items()))
    _run(*apt, "update", directory=directory)
    return apt


def _run(*words: str, directory: Path) -> None:
    done = subprocess.run(
        words, cwd=directory, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode != 0:
        pytest.skip(f"no opams of other suites: {' '.join(words[-2:])}: {done.stderr[-300:]}")
