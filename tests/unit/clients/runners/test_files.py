"""Locks, mirrors, excerpts, and reading what packages under test have written."""

import asyncio
import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from opam_ci.clients.runners.images import rootfs_exec
from opam_ci.clients.runners.images.layer import require_pid_namespace, require_sandbox
from opam_ci.clients.runners.images.rootfs_exec import RootfsExecutor
from opam_ci.clients.runners.images.scratch import JobRoots, overlay
from opam_ci.clients.runners.phases import mirrors
from opam_ci.clients.runners.phases.transcript import Excerpt, Transcript
from opam_ci.clients.runners.sandbox import safe_read as beneath
from opam_ci.clients.runners.sandbox.bubblewrap import ROOT
from opam_ci.clients.runners.sandbox.disk import removed_sizes
from opam_ci.clients.runners.sandbox.locks import (
    lock,
    made_on_demand,
    prune_unused,
    remove_tree,
    try_lock,
)
from opam_ci.clients.runners.sandbox.process import LastOutput, ProcessResult, run_process
from opam_ci.clients.runners.settings import RootfsSettings, default_home
from opam_ci.core.classify.excerpt import HEAD_BYTES, TAIL_BYTES
from opam_ci.core.jobs.build import BuildProgress
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause


def test_a_file_beneath_a_root_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"text")
    assert beneath.read(tmp_path, "a/b", limit=4) == b"text"
    assert beneath.read(tmp_path, "a/b", limit=3) is None
    assert beneath.read(tmp_path, "a/c", limit=4) is None
    assert beneath.read(tmp_path, "a", limit=4) is None


def test_no_link_or_pipe_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").symlink_to(outside / "secret")
    (root / "directory").symlink_to(outside)
    os.mkfifo(root / "pipe")
    assert beneath.read(root, "file", limit=99) is None
    assert beneath.read(root, "directory/secret", limit=99) is None
    assert beneath.read(root, "pipe", limit=99) is None
    assert beneath.names(root, "directory") == ()
    for path in ("../outside/secret", "/etc/passwd", ""):
        with pytest.raises(ValueError, match="not a path beneath"):
            beneath.read(root, path, limit=99)


@pytest.mark.parametrize(("limit", "number"), [(5, 9), (99, 3)])
def test_a_tree_is_read_within_its_limits(tmp_path: Path, limit: int, number: int) -> None:
    """Of all files together: a build may leave any number of them."""
    (tmp_path / "a/b").mkdir(parents=True)
    for name in ("a/x", "a/y", "a/b/z"):
        (tmp_path / name).write_bytes(b"xx")
    assert beneath.files(tmp_path, "a", limit=limit, number=number) is None
    assert beneath.files(tmp_path, "a", limit=6, number=4) == dict.fromkeys(
        ("x", "y", "b/z"), b"xx"
    )


async def test_files_of_one_call_are_read_within_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rootfs_exec, "READ_LIMIT", 5)
    (tmp_path / "job").mkdir()
    root = overlay(tmp_path / "job", ())
    for name in "abc":
        (root.upper / name).write_bytes(b"xx")
    executor = RootfsExecutor(root, mirrors.Mirrors(), ROOT)
    assert await executor.read("a", "b", "c", limit=4) == {"a": b"xx", "b": b"xx"}


async def test_the_end_of_any_output_is_kept() -> None:
    kept = LastOutput(10)
    ended = await run_process(["seq", "1000000"], output=kept)
    assert ended.ok
    assert kept.text == "9\n1000000"


def test_packages_are_counted_as_opam_names_them(tmp_path: Path) -> None:
    for path in ("a/a.1", "a/a.2~rc1", "a/b.1", "c"):
        (tmp_path / "repo/packages" / path).mkdir(parents=True)
    (tmp_path / "repo/packages/a/a.3").write_text("a file")
    assert beneath.packages(tmp_path, "repo") == {"a.1", "a.2~rc1"}
    assert beneath.packages(tmp_path, "absent") == frozenset()


async def test_a_lock_makes_the_next_one_wait(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", list[str]()

    async def second() -> None:
        async with lock(path, waiting=lambda: order.append("waits")):
            order.append("second")

    async with lock(path):
        task = asyncio.create_task(second())
        await asyncio.sleep(0.1)
        order.append("first")
    await task
    assert order == ["waits", "first", "second"]


async def test_shared_locks_are_held_together_and_not_with_an_exclusive_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lock"
    async with lock(path, shared=True), lock(path, shared=True):
        assert try_lock(path) is None
    free = try_lock(path)
    assert free is not None
    os.close(free)


async def test_what_is_made_on_demand_is_made_once(tmp_path: Path) -> None:
    made, together = list[str](), asyncio.Barrier(3)

    async def find() -> str | None:
        found = made[0] if made else None
        await asyncio.sleep(0)  # the others look too
        return found

    async def make() -> None:
        await asyncio.sleep(0.1)
        made.append("it")

    async def use() -> None:
        async with made_on_demand(tmp_path / "home/it.lock", find, make, lambda: None) as found:
            assert found == "it"
            await together.wait()

    await asyncio.gather(use(), use(), use())
    assert made == ["it"]


async def test_what_was_used_longest_ago_is_pruned_unless_it_is_held(tmp_path: Path) -> None:
    marks = [tmp_path / f"{number}.mark" for number in range(4)]
    for age, mark in enumerate(marks):
        mark.touch()
        os.utime(mark, (1000 - age, 1000 - age))
    left: dict[Path, list[Path]] = {}

    async def remove(mark: Path) -> None:
        left[mark] = [each for each in marks if os.access(each, os.F_OK)]

    async with lock(tmp_path / "2.lock", shared=True):
        await prune_unused(marks, 1, lambda mark: mark.with_suffix(".lock"), remove)
    # The mark of each is gone before the rest of it.
    assert left == {marks[1]: [marks[0], marks[2], marks[3]], marks[3]: [marks[0], marks[2]]}


async def test_a_sweep_removes_the_roots_of_dead_workers_only(tmp_path: Path) -> None:
    roots = JobRoots(tmp_path / "home" / "jobs", ROOT)
    assert await roots.sweep() == 0
    async with roots.open(()) as alive:
        dead = alive.upper.parent.with_name("job-dead")
        (dead / "upper").mkdir(parents=True)
        assert await roots.sweep() == 1
        assert not dead.exists()
        assert alive.upper.is_dir()
    assert not alive.upper.exists()


def test_a_local_mirror_is_shown_at_a_place_of_the_build_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    shown = mirrors.inside((f"file://{tmp_path}", "https://cache.example.org"))
    assert shown.directories == ((tmp_path.resolve(), "/mirrors/0"),)
    assert shown.setting == 'archive-mirrors: ["file:///mirrors/0" "https://cache.example.org"]'


def test_a_mirror_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    for url in (f"file://{tmp_path}", f"file://{tmp_path}/absent", 'https://x/"]'):
        with pytest.raises(InfrastructureError) as caught:
            mirrors.inside((url,))
        assert caught.value.cause is Cause.PACKAGE_MIRROR


@pytest.mark.parametrize(
    ("opam", "mirrored"),
    [
        ('build: ["true"]\n', True),
        ('homepage: "http://x"\ndev-repo: "git://x"\n', True),
        ('url { src: "https://x/y" checksum: "md5=%s" }\n', True),
        ('url { src: "https://x/y" checksum: ["sha256=00" "md5=%s"] }\n', True),
        ('# url { src: "https://x/y" }\nbuild: []\n', True),
        ('url { src: "git+https://x/y" }\n', False),
        (
            'url {\n src: "https://x/y"\n checksum: "md5=%f"\n}\n',
            False,
        ),
        (
            """url { src: "https://x/y" checksum: "md5=%s" }
            extra-source "z" { src: "https://x/z" checksum: "md5=%f" }""",
            False,
        ),
    ],
)
def test_a_package_is_mirrored_if_all_its_sources_are(
    tmp_path: Path, opam: str, *, mirrored: bool
) -> None:
    digest = "ab" + "0" * 30
    (tmp_path / "md5/ab").mkdir(parents=True)
    (tmp_path / "md5/ab" / digest).write_text("")
    text = opam.replace("%s", digest).replace("%f", "f" * 32).encode()
    assert mirrors.is_mirrored(text, (tmp_path,)) is mirrored


def test_what_depends_on_a_mirror_depends_on_the_archives_that_it_has(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    archive = tmp_path / "sha256" / "ab" / f"ab{'0' * 62}"
    shown = mirrors.inside((tmp_path.as_uri(),))
    empty = shown.contents
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"1")
    full = shown.contents
    archive.write_bytes(b"2")  # what it has is asked for, by its checksum
    (tmp_path / "README").touch()
    assert shown.contents == full
    (archive.parent / f"ab{'1' * 62}").touch()
    found = [shown.contents, full, empty, mirrors.inside(("https://x.org",)).contents]
    assert len({*found, mirrors.Mirrors().contents}) == 5
    for each in archive.parent.iterdir():
        each.unlink()
    assert shown.contents == empty


def test_a_repository_is_reduced_to_what_mirrors_have(tmp_path: Path) -> None:
    source = 'url { src: "https://x/y" checksum: "md5=%s" }\n' % ("f" * 32)
    files = {
        "repo": 'opam-version: "2.0"\n',
        "packages/a/a.1/opam": "build: []\n",
        "packages/a/a.1/files/patch": "x",
        "packages/b/b.1/opam": source,
        "packages/b/b.1/files/patch": "x",
        "packages/b/b.2/opam": "",
    }
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    assert mirrors.reduce(tmp_path / "all.tar.gz", tmp_path / "some.tar.gz", (tmp_path,)) == {"b.1"}
    with tarfile.open(tmp_path / "some.tar.gz") as tar:
        assert tar.getnames() == [name for name in files if "b.1" not in name]


async def test_the_sandbox_of_opam_must_be_on(tmp_path: Path) -> None:
    lower = tmp_path / "layer"
    config = lower / "home/opam/.opam/config"
    config.parent.mkdir(parents=True)
    config.write_text('wrap-build-commands: ["%{hooks}%/sandbox.sh" "build"]\n')
    (tmp_path / "job").mkdir()
    executor = RootfsExecutor(overlay(tmp_path / "job", (lower,)), mirrors.Mirrors(), ROOT)
    await require_sandbox(executor)
    config.write_text('opam-version: "2.0"\n')
    with pytest.raises(InfrastructureError) as off:
        await require_sandbox(executor)
    config.unlink()
    with pytest.raises(InfrastructureError) as absent:
        await require_sandbox(executor)
    assert off.value.cause is absent.value.cause is Cause.SANDBOX


async def test_the_sandbox_of_opam_must_have_its_own_processes(tmp_path: Path) -> None:
    lower = tmp_path / "layer"
    script = lower / "home/opam/.opam/opam-init/hooks/sandbox.sh"
    script.parent.mkdir(parents=True)
    script.write_text('exec bwrap "${ARGS[@]}" "$@"\n')
    (tmp_path / "job").mkdir()
    executor = RootfsExecutor(overlay(tmp_path / "job", (lower,)), mirrors.Mirrors(), ROOT)
    with pytest.raises(InfrastructureError, match="no PID namespace"):
        await require_pid_namespace(executor)
    script.write_text('exec bwrap --unshare-pid "${ARGS[@]}" "$@"\n')
    await require_pid_namespace(executor)


def test_an_excerpt_keeps_both_ends() -> None:
    excerpt = Excerpt()
    whole = b"".join(b"%08d\n" % number for number in range(100_000))
    for begin in range(0, len(whole), 1000):
        excerpt.feed(whole[begin : begin + 1000])
    left_out = len(whole) - HEAD_BYTES - TAIL_BYTES
    head, tail = whole[:HEAD_BYTES].decode(), whole[-TAIL_BYTES:].decode()
    assert excerpt.text == f"{head}\n[opam-ci: {left_out} bytes left out here]\n{tail}"


@pytest.mark.parametrize("size", [0, 1, HEAD_BYTES, HEAD_BYTES + 1, HEAD_BYTES + TAIL_BYTES])
def test_an_excerpt_of_little_is_all_of_it(size: int) -> None:
    excerpt = Excerpt()
    excerpt.feed(b"x" * size)
    assert excerpt.text == "x" * size


class _Log:
    def __init__(self) -> None:
        self.data = b""

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data


def test_progress_is_reported_at_each_begin_and_then_rarely() -> None:
    log, seen = _Log(), list[BuildProgress]()
    transcript = Transcript(log, seen.append)
    transcript.begin(Phase.SETUP, "x")
    for _ in range(1000):
        transcript.output(b"line\n")
    transcript.end("exit 0")
    transcript.begin(Phase.SOLVE, "y")
    assert [progress.phase for progress in seen] == [Phase.SETUP, Phase.SOLVE]
    assert transcript.texts[Phase.SETUP] == "line\n" * 1000
    assert b"\n==== opam-ci: phase setup begins " in log.data


def test_a_home_that_no_mount_option_can_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="remove commas"):
        RootfsSettings(home=tmp_path / "a,b")


def test_the_default_home_is_the_cache_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_home() == tmp_path / "opam-ci"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_home() == Path.home() / ".cache/opam-ci"


async def test_a_directory_into_which_a_sweep_looks_is_removed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "job-x"
    root.mkdir()
    removals = 0

    async def disturbed(command: Sequence[str], **how: Any) -> ProcessResult:
        nonlocal removals
        removals += 1
        ended = await run_process(command, **how)
        if removals > 1:
            return ended
        # A worker has just started, looked for the lock, and made it anew.
        root.mkdir()
        (root / "lock").touch()
        return replace(ended, exit_code=1)

    monkeypatch.setattr("opam_ci.clients.runners.sandbox.locks.run_process", disturbed)
    await remove_tree(root, ROOT)
    assert not root.exists()
    assert removals == 2


def test_a_removed_file_counts_once_and_not_if_it_is_in_memory() -> None:
    output = """\
find: '/proc/7/task/7/fd/5': No such file or directory
/proc/7/task/7/fd/3 42:10 16
/proc/7/map_files/7f00-7f01 42:10 16
/proc/8/task/8/fd/1 43:11 800
/proc/8/task/8/fd/2 42:12 2
/proc/7/task/7/fd/3 overlayfs
/proc/7/map_files/7f00-7f01 overlayfs
/proc/8/task/8/fd/1 tmpfs
stat: cannot read file system information for '/proc/8/task/8/fd/2': No such file or directory
"""
    assert sorted(removed_sizes(output)) == [2 * 512, 16 * 512]
