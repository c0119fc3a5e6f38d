"""One job's use of the store of sources: what it takes, what it fetches itself, what it leaves."""

import hashlib
from pathlib import Path

import pytest

from opam_ci.clients.runners.cache.sources import JobSources, SourceStore
from opam_ci.clients.runners.phases.executor import Read
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.core.jobs.archives import Archive
from opam_ci.core.jobs.build import SourceCounts
from opam_ci.core.jobs.facts import OpamAction

HOST = "example.org:443"
CACHE = "home/opam/.opam/download-cache"


def archive(data: bytes) -> Archive:
    checksums = tuple((kind, hashlib.new(kind, data).hexdigest()) for kind in ("sha256", "md5"))
    return Archive(checksums=checksums, hosts=(HOST,))


OWN, DEP, NEW = (archive(name) for name in (b"own", b"dep", b"new"))


class Machine:
    """A machine, and the jobs on it."""

    def __init__(self, home: Path, limit: int = 1 << 30, mirrors: Mirrors | None = None) -> None:
        self.store = SourceStore(home, limit)
        self.home = home
        self.mirrors = mirrors or Mirrors()
        self.notes: list[str] = []
        self._jobs = 0

    def job(self) -> JobSources:
        self._jobs += 1
        directory = self.home / f"job-{self._jobs}"
        directory.mkdir()
        job = self.store.of_job(directory, self.mirrors)
        assert job is not None
        return job

    async def run(
        self, *wanted: Archive, own: tuple[Archive, ...] = (), served: dict[str, bytes]
    ) -> tuple[set[str], SourceCounts]:
        """Runs a job that finds in opam's cache what is served; returns what it sees."""

        job = self.job()
        async with job.fetching(wanted, own, self.notes.append) as has_some:
            view = job.mirrors.directories[0][0]
            seen = {str(path.relative_to(view)) for path in view.rglob("*") if path.is_file()}
            assert has_some is bool(seen)
            await job.keep(_reading(served), self.notes.append)
        return seen, job.counts


def _reading(served: dict[str, bytes]) -> Read:
    async def read(*paths: str, limit: int) -> dict[str, bytes]:
        return {
            path: served[path] for path in paths if path in served and len(served[path]) <= limit
        }

    return read


def cached(*contents: bytes) -> dict[str, bytes]:
    return {f"{CACHE}/{archive(data).paths[0]}": data for data in contents}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_the_second_job_takes_what_the_first_has_fetched(machine: Machine) -> None:
    assert await machine.run(DEP, served=cached(b"dep")) == (
        set(),
        SourceCounts(taken=0, fetched=1),
    )
    assert await machine.run(DEP, NEW, served=cached(b"dep", b"new")) == (
        set(DEP.paths),
        SourceCounts(taken=1, fetched=1),
    )
    assert machine.notes == ["1 archives from this machine's store of sources"]


async def test_a_package_under_test_is_fetched_from_where_its_author_says(
    machine: Machine,
) -> None:
    await machine.run(OWN, DEP, served=cached(b"own", b"dep"))
    for _ in range(2):
        seen, counts = await machine.run(OWN, DEP, own=(OWN,), served=cached(b"own", b"dep"))
        assert seen == set(DEP.paths)
        assert counts == SourceCounts(taken=1, fetched=1)
    # Also where a dependency is made from the same archive, or one that has a checksum of it.
    part = Archive(checksums=OWN.checksums[:1])
    seen, _ = await machine.run(part, DEP, own=(OWN,), served={})
    assert seen == set(DEP.paths)
    # Jobs of its reverse dependencies take it.
    seen, _ = await machine.run(OWN, DEP, served={})
    assert seen == {*OWN.paths, *DEP.paths}


async def test_what_a_build_root_has_in_the_place_of_an_archive_is_not_kept(
    machine: Machine,
) -> None:
    lie = {f"{CACHE}/{DEP.paths[0]}": b"evil"}
    await machine.run(DEP, served=lie)
    assert await machine.run(DEP, served={}) == (set(), SourceCounts())
    assert machine.store.archives.use().entries == 0


async def test_what_a_mirror_of_this_machine_has_is_not_kept_twice(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    path = mirror / DEP.paths[1]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"dep")
    mirrors = Mirrors(urls=("file:///mirrors/0",), directories=((mirror, "/mirrors/0"),))
    machine = Machine(tmp_path, mirrors=mirrors)
    assert machine.job().mirrors.urls == ("file:///mirrors/sources", "file:///mirrors/0")
    seen, counts = await machine.run(DEP, NEW, served=cached(b"dep", b"new"))
    assert (seen, counts) == (set(), SourceCounts(fetched=1))
    assert machine.store.archives.use().entries == 1


@pytest.mark.parametrize("trouble", ["file", "full"])
async def test_a_store_in_trouble_costs_a_job_nothing_but_downloads(
    machine: Machine, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await machine.run(DEP, served=cached(b"dep"))
    if trouble == "file":
        (machine.home / "sources").rename(machine.home / "gone")
        (machine.home / "sources").touch()
    else:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(machine.store.archives, "keep", full)
        monkeypatch.setattr(machine.store.archives, "fetching", full)
    machine.notes.clear()
    seen, counts = await machine.run(DEP, NEW, served=cached(b"dep", b"new"))
    expected = 0 if trouble == "file" else 1
    assert (len(seen) // 2, counts.taken) == (expected, expected)
    assert machine.notes
    assert len(machine.notes) == len(set(machine.notes))


def test_a_store_without_room_is_none(tmp_path: Path) -> None:
    assert SourceStore(tmp_path, 0).of_job(tmp_path, Mirrors()) is None
    assert list(tmp_path.iterdir()) == []


FAILED = OpamAction(
    action="fetch",
    package="dep.1",
    result="failed",
    command="https://example.org/dep.tgz (curl: code 429 while downloading https://example.org/d)",
)


@pytest.mark.parametrize(
    ("actions", "network_works", "waits"),
    [
        ((FAILED,), True, True),
        ((FAILED,), None, True),
        # Then it is not the host.
        ((FAILED,), False, False),
        ((FAILED.model_copy(update={"action": "build"}),), True, False),
        ((FAILED.model_copy(update={"command": "https://example.org/x (no)"}),), True, False),
    ],
)
async def test_the_next_job_waits_before_a_host_that_refused(
    machine: Machine, actions: tuple[OpamAction, ...], *, network_works: bool | None, waits: bool
) -> None:
    first = machine.job()
    async with first.fetching([DEP], (), machine.notes.append):
        await first.record(ok=False, actions=actions, network_works=network_works)
    assert machine.notes == []
    second = machine.job()
    async with second.fetching([DEP], (), machine.notes.append):
        await second.record(ok=True, actions=(), network_works=None)
    assert machine.notes == ([f"waiting before {HOST} is asked again"] if waits else [])
    # It has served that one: the next one is refused for the first time again.
    known = (machine.home / "source-hosts").glob("[0-9a-f]*")
    assert list(known) == []
