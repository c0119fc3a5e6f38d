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
        async with job.fetching(wanted, own, self.notes.append):
            seen = _seen(job)
            assert job.has_some is bool(seen)
            # What it sees, it sees under all checksums.
            assert job.has_all is (seen >= {path for one in wanted for path in one.paths})
            await job.keep(_reading(served), self.notes.append)
        return seen, job.counts


def _seen(job: JobSources) -> set[str]:
    view = job.mirrors.directories[-1][0]
    found = (path for path in view.rglob("*") if path.is_symlink() or path.is_file())
    return {str(path.relative_to(view)) for path in found}


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


class Mirrored(Machine):
    """A machine that has a mirror, with one file in it."""

    def __init__(self, home: Path, place: str, data: bytes) -> None:
        self.mirror = home / "mirror"
        self.put(place, data)
        mirrors = Mirrors(urls=("file:///mirrors/0",), directories=((self.mirror, "/mirrors/0"),))
        super().__init__(home, mirrors=mirrors)

    def put(self, place: str, data: bytes) -> None:
        path = self.mirror / place
        path.parent.mkdir(parents=True)
        path.write_bytes(data)


async def test_what_a_mirror_of_this_machine_has_is_not_kept_twice(tmp_path: Path) -> None:
    machine = Mirrored(tmp_path, DEP.paths[1], b"dep")
    seen, counts = await machine.run(DEP, NEW, served=cached(b"dep", b"new"))
    assert (seen, counts) == ({*DEP.paths}, SourceCounts(fetched=1))
    assert machine.store.archives.use().entries == 1
    # opam takes it from there as well: its author is not asked.
    seen, counts = await machine.run(DEP, NEW, own=(DEP,), served={})
    assert (seen, counts) == ({*DEP.paths, *NEW.paths}, SourceCounts(taken=1))


async def test_a_job_sees_a_file_of_a_mirror_where_it_has_the_mirror(tmp_path: Path) -> None:
    machine = Mirrored(tmp_path, DEP.paths[0], b"dep")
    link = machine.mirror / DEP.paths[1]
    link.parent.mkdir(parents=True)
    link.symlink_to(machine.mirror / DEP.paths[0])
    for mirrored in (DEP, Archive(checksums=DEP.checksums[1:])):
        job = machine.job()
        async with job.fetching([mirrored], (), machine.notes.append):
            view = job.mirrors.directories[-1][0]
            assert {(view / path).readlink() for path in mirrored.paths} == {
                Path("/mirrors/0", DEP.paths[0])
            }


@pytest.mark.parametrize("wrong", ["content", "link", "directory"])
async def test_a_job_sees_nothing_that_a_mirror_has_in_the_place_of_an_archive(
    tmp_path: Path, wrong: str
) -> None:
    machine = Mirrored(tmp_path, DEP.paths[0], b"evil")
    path = machine.mirror / DEP.paths[0]
    outside = tmp_path / "outside"
    outside.write_bytes(b"dep")
    if wrong != "content":
        path.unlink()
    if wrong == "link":
        path.symlink_to(outside)
    elif wrong == "directory":
        path.mkdir()
    assert await machine.run(DEP, served={}) == (set(), SourceCounts())


async def test_a_mirror_that_cannot_be_read_costs_a_job_nothing_but_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Mirrored(tmp_path, DEP.paths[0], b"dep")

    def broken(*_: object) -> bool:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("opam_ci.clients.runners.cache.sources.show_mirrored", broken)
    assert await machine.run(DEP, served=cached(b"dep")) == (set(), SourceCounts(fetched=1))
    assert machine.notes == ["a mirror on this machine cannot be read: EIO"] * 2


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
