"""A release that breaks a reverse dependency, and the patch that mends it: real builds and git."""

import asyncio
import subprocess
from pathlib import Path

import httpx
import pytest

from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.platform_files import load_platforms
from opam_ci.web.pages import application
from opam_ci.web.site import Site
from opam_ci.web.sources import PageSources
from tests.e2e.conftest import System, result
from tests.support.fakes import opam_repository

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LIBRARY = 'install: ["sh" "-c" "mkdir -p %{lib}%/it; echo %{version}% > %{lib}%/it/n"]\n'
WANTS_ONE = "grep 1 %{lib}%/it/n || { echo Error: it is not one; exit 1; }"
HURT = f'depends: [\n  "lib" {{>= "1"}}  # any\n]\nbuild: ["sh" "-c" "{WANTS_ONE}"]\n'
BASE = {
    **opam_repository.package("lib.1", LIBRARY),
    **opam_repository.package("hurt.1", HURT),
    **opam_repository.package("good.1", 'depends: "lib"\nbuild: ["true"]\n'),
}


def fetched(home: Path, *paths: str) -> list[str]:
    """Returns pages, made from the index and the store of a home."""
    site = Site(
        PageSources(
            index_url=f"sqlite:///{home}/index.sqlite",
            store=ArtifactStore.open(f"file://{home}/store"),
            platforms=load_platforms(None),
        )
    )

    async def get() -> list[str]:
        transport = httpx.ASGITransport(application(site))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://ci") as client:
                return [(await client.get(path)).raise_for_status().text for path in paths]
        finally:
            await site.sources.close()

    return asyncio.run(get())


def test_the_patch_of_a_head_mends_what_it_breaks(system: System, tmp_path: Path) -> None:
    system.start_worker()
    release = opam_repository.package("lib.2", LIBRARY)
    bare = opam_repository.write(system.home / "upstream.git", BASE, {"release": release})
    words = ("check", "--json", "--repo", str(bare), "--revdeps", "--branch")
    head = "/local/upstream/heads/release"

    # It may have failed by chance.
    system.run(*words, "release", check=1)
    (patch,) = fetched(system.home, f"{head}/bounds.patch")
    assert patch == "# No regression of a reverse dependency is confirmed.\n"

    done = system.run(*words, "release", check=1)
    (row,) = (row for row in result(done)["jobs"] if row["job"]["revdep"] == "hurt.1")
    job = f"{head}/job/revdep,debian-13-ocaml-5.3@amd64,lib.2,hurt.1"
    assert row["outcome"]["evidence"]["on_base"] == "passes"
    patch, alone, page = fetched(system.home, f"{head}/bounds.patch", f"{job}/bound.patch", job)
    assert '\n+  "lib" {>= "1" & < "2"}  # any\n' in patch
    assert alone == patch
    assert "lib &lt; 2" in page

    # From now on its verdict is used again: the file is with the attempt on which that rests.
    system.run(*words, "release", check=1)
    assert fetched(system.home, f"{head}/bounds.patch") == [patch]

    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--branch=release", bare, clone], check=True)
    subprocess.run(["git", "-C", str(clone), "apply", "-"], input=patch.encode(), check=True)
    path = "packages/hurt/hurt.1/opam"
    mended = {**release, path: (clone / path).read_text()}
    opam_repository.add_branch(bare, "mended", mended)
    done = system.run(*words, "mended", check=0)
    jobs = {f"{row['job']['kind']} {row['job']['package']}" for row in result(done)["jobs"]}
    assert {"build lib.2", "build hurt.1", "revdep lib.2"} <= jobs
    assert not any(row["job"]["revdep"] == "hurt.1" for row in result(done)["jobs"])
