"""One version of opam lints on every machine, and its failures are never the author's."""

import asyncio
import hashlib
import os
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner

from opam_ci.cli.author.lint import lint
from opam_ci.cli.operator import example
from opam_ci.clients.lint.opam import OpamLint
from opam_ci.clients.lint.program import FILES, HostProgram, RootProgram, confined
from opam_ci.clients.runners.sandbox.process import run_process
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.lint.opam_codes import OPAM_VERSION

pytestmark = pytest.mark.timeout(300)

BAD = b'opam-version: "2.0"\nlicense: "BSD"\n'
CODES = [23, 25, 35, 36, 57, 62]
RESULT = '{"opam-version": "2.3.0", "lint": [{"file": "/0", "errors": [], "warnings": []}]}'


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def on_host(folder: Path, script: str) -> OpamLint:
    return OpamLint(HostProgram(program(folder, "opam", script)), timeout=timedelta(seconds=1))


async def test_neither_the_machines_opam_nor_its_variables_change_a_verdict(
    opam_lint: OpamLint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await opam_lint.lint([BAD])
    assert [message.code for message in before[0]] == CODES
    program(tmp_path, "opam", f"touch {tmp_path}/ran; echo '{RESULT}' > ../lint.json")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in {
        "OPAMROOT": "/nowhere",
        "OPAMSTRICT": "1",
        "OPAMCLI": "2.0",
        "OPAMCOLOR": "always",
        "OPAMUTF8": "always",
        "OPAMJSON": "/nowhere/json",
        "OPAMDEBUG": "2",
        "OPAMSWITCH": "elsewhere",
    }.items():
        monkeypatch.setenv(name, value)
    assert await opam_lint.lint([BAD]) == before
    assert not (tmp_path / "ran").exists()


async def test_opam_has_no_network_and_writes_nothing(opam_lint: OpamLint, tmp_path: Path) -> None:
    assert isinstance(opam_lint.program, RootProgram)
    image = await opam_lint.program.prepare()
    (tmp_path / FILES).mkdir()
    (tmp_path / FILES / "0").write_text("hello\n")
    script = (
        "cat 0; touch /usr/x || echo read-only; ls /tmp; env | cut -d= -f1 | sort | tr '\\n' ' ';"
        "tail -n +3 /proc/net/dev | cut -d: -f1; grep CapEff /proc/self/status; ls -d /root/*"
    )
    reported = bytearray()
    await run_process(
        confined(image.root, tmp_path, ("sh", "-c", script), network=False), output=reported.extend
    )
    assert reported.decode().splitlines() == [
        "hello",
        "touch: cannot touch '/usr/x': Read-only file system",
        "read-only",
        "files",
        "HOME LC_ALL OPAMCOLOR OPAMROOT OPAMROOTISOK OPAMUTF8 OPAMYES PATH PWD     lo",
        "CapEff:\t0000000000000000",
        "ls: cannot access '/root/*': No such file or directory",
    ]


async def test_archives_are_downloaded_from_within_the_sandbox(opam_lint: OpamLint) -> None:
    downloading = OpamLint(opam_lint.program, check_upstream=True)
    with example.source_host() as host:
        url = f"{host.url}/{example.PASSES}.tar.gz"
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            archive = (await client.get(url)).content
        texts = [
            BAD + f'url {{ src: "{url}" checksum: "sha256={digest}" }}\n'.encode()
            for digest in (hashlib.sha256(archive).hexdigest(), "0" * 64)
        ]
        right, wrong = await downloading.lint(texts)
    (code,) = {message.code for message in wrong} - {message.code for message in right}
    assert (code, len(wrong)) == (60, len(right) + 1)


@pytest.mark.parametrize(
    ("script", "reported", "cause"),
    [
        ("echo what; exit 99", "exit code 99: what", Cause.OPAM_INTERNAL),
        ("kill -SEGV $$", "signal 11", Cause.OPAM_INTERNAL),
        ("echo what; exit 0", "no usable result .*: what", Cause.OPAM_INTERNAL),
        ("ln -s /etc/passwd ../lint.json", "no usable result", Cause.OPAM_INTERNAL),
        (
            'echo \'{"opam-version": "2.3.0", "lint": []}\' > ../lint.json',
            "no result for 1 of 1",
            Cause.OPAM_INTERNAL,
        ),
        (
            f"echo '{RESULT.replace('2.3.0', '2.1.2')}' > ../lint.json",
            "lints with opam 2.1.2, and authors are judged by the lint of opam 2.3.0",
            Cause.IMAGE,
        ),
        ("sleep 30", "took longer", Cause.OPAM_INTERNAL),
    ],
)
async def test_an_opam_that_misbehaves_is_a_fault_of_ours(
    tmp_path: Path, script: str, reported: str, cause: Cause
) -> None:
    with pytest.raises(InfrastructureError, match=reported) as caught:
        await on_host(tmp_path, script).lint([b"x"])
    assert caught.value.cause is cause


async def test_an_opam_that_is_gone_is_a_fault_of_ours() -> None:
    with pytest.raises(InfrastructureError, match=r"exit code 127: .*/nowhere/opam"):
        await OpamLint(HostProgram(Path("/nowhere/opam"))).lint([b""])


def is_alive(pid: str) -> bool:
    """Whether a process runs; the parent that adopted a dead one may reap it late."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_cancelling_ends_opam_and_what_it_started(tmp_path: Path) -> None:
    lint = on_host(
        tmp_path, f"echo $$ > {tmp_path}/pids; sleep 60 & echo $! >> {tmp_path}/pids; wait"
    )
    task = asyncio.create_task(lint.lint([b"x"]))
    pids = tmp_path / "pids"
    while not (pids.exists() and len(pids.read_text().splitlines()) == 2):  # noqa: ASYNC110  a file gives no event
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for pid in pids.read_text().split():
        while is_alive(pid):  # noqa: ASYNC110  a stranger's end gives no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("echo 2.1.2", "is not opam 2.3.0, whose lint authors are judged by; .* '2.1.2'"),
        ("echo 2.3.0; exit 1", "is not opam 2.3.0"),
        ("", "is not opam 2.3.0"),
    ],
)
async def test_an_opam_of_the_machine_must_be_of_the_version(
    tmp_path: Path, version: str, message: str
) -> None:
    with pytest.raises(UsageError, match=f"OPAM_CI_LINT_OPAM: {tmp_path}/opam {message}"):
        await on_host(tmp_path, version).program.require()


async def test_a_missing_opam_of_the_machine_is_refused() -> None:
    with pytest.raises(UsageError, match=r"/nowhere/opam is not opam 2\.3\.0"):
        await HostProgram(Path("/nowhere/opam")).require()


def test_a_named_opam_of_the_version_lints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        f'[ "$1" = --version ] && {{ echo {OPAM_VERSION}; exit; }}; '
        f"env | grep -q OPAMSTRICT || echo '{RESULT}' > ../lint.json"
    )
    monkeypatch.setenv("OPAM_CI_LINT_OPAM", str(program(tmp_path, "opam", script)))
    monkeypatch.setenv("OPAMSTRICT", "1")
    package = tmp_path / "packages/a/a.1"
    package.mkdir(parents=True)
    (package / "opam").write_bytes(BAD)
    app = typer.Typer()
    app.command()(lint)
    result = CliRunner().invoke(app, ["--repo", str(tmp_path), "--checks", "opam", "a.1"])
    assert result.stdout == "1 package checked with opam 2.3.0, nothing found.\n"


async def test_a_root_that_cannot_be_made_is_a_fault_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opam_lint: OpamLint
) -> None:
    await opam_lint.program.require()
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    program(bin_, "mmdebstrap", "echo 'E: no such host'; exit 1")
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    progress: list[str] = []
    with pytest.raises(InfrastructureError, match="E: no such host") as caught:
        await OpamLint(RootProgram(tmp_path, progress.append)).lint([BAD])
    assert caught.value.cause is Cause.IMAGE
    assert progress[0].startswith("making a clean Debian trixie root file system")


async def test_a_sandbox_that_refuses_is_a_fault_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opam_lint: OpamLint
) -> None:
    program(tmp_path, "bwrap", "echo 'bwrap: No permissions to create new namespace'; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(InfrastructureError, match="did not start: bwrap: No perm") as caught:
        await opam_lint.lint([BAD])
    assert caught.value.cause is Cause.SANDBOX
    with pytest.raises(UsageError) as refused:
        await opam_lint.program.require()
    assert str(refused.value) == (
        "the sandbox of lint does not work here (bwrap: No permissions to create new namespace):"
        " run this outside of a container, in a privileged one, or set OPAM_CI_LINT_OPAM to the"
        " path of an opam 2.3.0"
    )
