"""What a build may do to the machine and to other jobs: nothing (docs/threat-model.md)."""

import asyncio
import os
import shutil
import socket

import pytest

from opam_ci.clients.runners.phases import steps
from opam_ci.clients.runners.phases.executor import read_one
from opam_ci.clients.runners.sandbox.user_namespace import INOTIFY_INSTANCES, NAMESPACES
from opam_ci.clients.runners.settings import JobLimits
from opam_ci.core.jobs.facts import DiskOveruse
from tests.support.samples import escapes
from tests.support.worlds.rootfs import World, needs_groups, run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

LIMITS = JobLimits(memory_bytes=512 << 20, pids=150, disk_bytes=100 << 20, disk_inodes=20_000)

CONTROLS = {name for name in escapes.COMMANDS if name.startswith("control-")}

OF_ITS_OWN_ROOT = {
    *("become-root", "su", "setuid-copy", "shadow", "chroot", "chown"),
    *("write-etc", "write-usr", "write-root", "write-policy"),
    *("environment-1", "root-1", "directory-1", "descriptors-1", "maps-1", "namespaces-1"),
}
"""What apt may do: to the root of the job that it is in."""

HOLD = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  int instances = 0, namespaces = 0;
  while (inotify_init() >= 0) instances++;
  for (; namespaces < 3000; namespaces++) {
    int ready[2];
    char path[64], word = 'n';
    if (pipe(ready)) break;
    pid_t child = fork();
    if (child == 0) {
      word = unshare(CLONE_NEWUSER) ? 'n' : 'y';
      if (write(ready[1], &word, 1) == 1) pause();
      _exit(1);
    }
    if (child < 0 || read(ready[0], &word, 1) != 1) break;
    close(ready[0]);
    close(ready[1]);
    snprintf(path, sizeof path, "/proc/%d/ns/user", child);
    int held = word == 'y' ? open(path, O_RDONLY) : -1;
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    if (held < 0) break;
  }
  printf("%d %d\n", instances, namespaces);
  fflush(stdout);
  pause();
}
"""
"""Holds all inotify instances and user namespaces that it can get, and says how many."""

TAKE = (
    "for i in 1 2 3 4 5; do unshare --user true && echo taken; done; "
    "exec perl -e '$number = shift; for (1..10) { syscall($number, 0) >= 0 or die $! }'"
)
_INOTIFY_INIT1 = {"x86_64": 294, "aarch64": 26}

FILL = r"""
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char block[1 << 20];

int main(int count, char **words) {
  int file = open("/tmp/removed", O_RDWR | O_CREAT | O_EXCL, 0600);
  unlink("/tmp/removed");
  memset(block, 1, sizeof block);
  if (!strcmp(words[1], "open"))
    for (int i = 0; i < 400; i++) {
      if (write(file, block, sizeof block) != sizeof block) return 1;
      usleep(5000);
    }
  else {
    if (posix_fallocate(file, 0, 400L << 20)) return 1;
    mmap(NULL, 400L << 20, PROT_READ, MAP_SHARED, file, 0);
    close(file);
  }
  sleep(100);
  return 0;
}
"""
"""Fills a file that has no name any more, and keeps it open or mapped."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("escapes"), limits=LIMITS)


async def test_no_system_call_reaches_the_machine(world: World) -> None:
    async with world.executor() as executor:
        compiled = "cc -no-pie -o /tmp/calls -x c - && exec"
        for box in ((), steps.opam_sandbox_probe(own_processes=False).argv[:-1]):
            start = f"{compiled} {' '.join(box)} /tmp/calls"
            ended, output = await run(executor, start, escapes.SYSTEM_CALLS)
            assert ended.ok, output
            results = dict(line.split() for line in output.splitlines())
            assert len(results) > 90
            # In opam's sandbox, files are read-only, and root has no number.
            refusals = escapes.REFUSALS | ({"EINVAL", "EROFS"} if box else set())
            allowed = {name for name, why in results.items() if why not in refusals}
            assert allowed == {name for name in results if name.startswith("control-")}


async def test_no_command_reaches_the_machine_or_another_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret-of-the-worker")
    assert len(escapes.COMMANDS) > 80
    with socket.create_server(("127.0.0.1", 0)) as listener:
        start = f"cat > /tmp/script; LISTENER={listener.getsockname()[1]} exec sh /tmp/script"
        async with world.executor() as executor:
            ended, output = await run(executor, "cc -o /tmp/m -x c -", escapes.MOUNT)
            assert ended.ok, output
            ended, output = await run(executor, start, escapes.script())
            assert ended.ok, output
            assert set(output.split()) == {*CONTROLS, "end"}


async def test_apt_and_maintainer_scripts_can_change_the_root_of_the_job_alone(
    world: World,
) -> None:
    async with world.executor() as executor:
        await run(executor, "cc -o /tmp/m -x c -", escapes.MOUNT)
        # The first process is root's, too.
        rest = escapes.script(leave_out=("signal-1", "terminate-1"))
        start = "cat > /tmp/script; LISTENER=1 exec sh /tmp/script"
        ended, output = await run(executor, start, rest, as_root=True)
        assert ended.ok, output
        namespaces = {"control-namespace", "control-cgroup"}
        assert set(output.split()) - OF_ITS_OWN_ROOT == {*CONTROLS - namespaces, "end"}
        ended, output = await run(executor, "policy-rc.d; echo $?", as_root=True)
        assert output == "101\n"


async def test_one_job_cannot_take_what_another_needs(world: World) -> None:
    async with world.executor() as one, world.executor() as other:
        hold = "cc -o /tmp/hold -x c - && exec /tmp/hold > /tmp/held"
        holding = asyncio.create_task(run(one, hold, HOLD))
        try:
            async with asyncio.timeout(60):
                while not (held := await read_one(one, "tmp/held", limit=100)):
                    assert not holding.done()
                    await asyncio.sleep(0.05)
            instances, namespaces = map(int, held.split())
            assert 0 < instances <= INOTIFY_INSTANCES
            assert 0 < namespaces <= NAMESPACES
            ended, output = await run(other, f"{TAKE} {_INOTIFY_INIT1[os.uname().machine]}")
            assert (ended.ok, output) == (True, "taken\n" * 5)
        finally:
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)


@needs_groups
@pytest.mark.parametrize(
    "how",
    [
        "open",
        pytest.param(
            "mapped",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root sees what is mapped"),
        ),
    ],
)
async def test_a_removed_file_counts_against_the_disk_budget(world: World, how: str) -> None:
    async with world.executor() as executor:
        ended, _ = await run(executor, f"cc -o /tmp/fill -x c - && exec /tmp/fill {how}", FILL)
        assert ended.stopped
        overuse = (await executor.host()).disk_overuse
        assert isinstance(overuse, DiskOveruse)
        assert overuse.written_bytes > LIMITS.disk_bytes


async def test_the_proxy_of_the_worker_is_in_no_command_line(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://user:secret-of-the-worker@127.0.0.1:9")
    async with world.executor() as executor:
        look = "cat /proc/[0-9]*/cmdline; env"
        _, output = await run(executor, look, network=True)
        assert "secret-of-the-worker" not in output.partition("http_proxy=")[0]
        assert "http_proxy=http://user:secret-of-the-worker" in output
        assert str(world.home) not in output
