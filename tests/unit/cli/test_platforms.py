"""`opam-ci platforms`, and how `opam-ci check` finds its platforms."""

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from opam_ci.app.settings import Settings
from opam_ci.cli.main import run
from opam_ci.core.platforms.model import EMBEDDED, Pool

ROOT = Path(__file__).resolve().parents[3]
OWN = """
[pools.mine]
arch = "amd64"
runner = "rootfs"
[pools.boxes]
arch = "amd64"
runner = "container"
[[platforms]]
distribution = "debian-13"
ocaml = "5.3"
[[platforms]]
distribution = "alpine-3.23"
ocaml = "5.4"
runner = "container"
image = "localhost/mine:1"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return path


WHY = "it is for arm64; this machine is amd64"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that serves all but the pools for arm64."""

    async def unserved(settings: Settings, pools: Iterable[Pool]) -> dict[str, str]:
        del settings
        return {pool.name: WHY for pool in pools if pool.arch[0] == "arm64"}

    monkeypatch.delenv("OPAM_CI_PLATFORMS", raising=False)
    monkeypatch.setattr("opam_ci.cli.author.platforms.unserved", unserved)


Captured = pytest.CaptureFixture[str]


def refusal(capsys: Captured, *arguments: str | Path) -> str:
    """The one line that a command ends with when it is used wrongly."""
    assert run([str(argument) for argument in arguments]) == 2
    output = capsys.readouterr()
    assert not output.out
    [line] = output.err.splitlines()
    return line


def test_the_page_in_docs_is_that_of_the_default_file(capsys: Captured) -> None:
    """Make it with `./opam-ci platforms --markdown > docs/platforms.md`."""
    assert run(["platforms", "--markdown"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "platforms.md").read_text()


def test_plain_lines_for_a_pipe(capsys: Captured) -> None:
    assert run(["platforms"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 77
    assert [line.split("\t") for line in lines[:2]] == [
        ["debian-13-ocaml-5.3/amd64", "yes", "system", "linux-amd64", "rootfs", "lower bounds"],
        [
            *("debian-13-ocaml-4.14/amd64", "yes", "dev", "linux-amd64-containers", "container"),
            "lower bounds, revdeps",
        ],
    ]


@pytest.mark.parametrize(
    ("columns", "more"),
    [("80", []), ("110", ["opam", "pool", "runner", "besides"])],
    ids=["narrow", "wide"],
)
def test_a_table_for_a_terminal(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, columns: str, more: list[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    assert run(["platforms"]) == 0
    output = capsys.readouterr()
    head, *rows = re.sub(r"\x1b\[[0-9;]*m", "", output.out).splitlines()
    assert head.split() == ["platform", "here", *(more or ["pool"])]
    assert output.err.splitlines() == [f"macos-arm64: {WHY}", f"linux-arm64-containers: {WHY}"]
    assert all(len(row) <= int(columns) for row in rows)
    found = [row.split()[0] for row in rows if not row.startswith(" ")]
    assert len(found) == 77
    assert "debian-13-ocaml-4.14-no-flat-float-array/amd64" in found
    assert {row.split()[0] for row in rows if row.split()[1:2] == ["no"]} == {
        "debian-13-ocaml-4.14/arm64",
        "debian-13-ocaml-5.4/arm64",
        "macos-homebrew-ocaml-4.14/arm64",
        "macos-homebrew-ocaml-5.4/arm64",
    }


def test_a_json_line_for_each(capsys: Captured, own: Path) -> None:
    assert run(["platforms", "--platforms", str(own), "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["name"] == EMBEDDED.name
    assert (first["here"], first["why"]) == (True, None)
    assert (second["image"], second["pool"], second["revdeps"]) == (
        "localhost/mine:1",
        "boxes",
        False,
    )


def test_why_a_platform_is_not_served_here(capsys: Captured) -> None:
    assert run(["platforms", "debian-13-ocaml-5.4/arm64"]) == 0
    assert f"\t{WHY}\tdev\t" in capsys.readouterr().out
    assert run(["platforms", "debian-13-ocaml-5.4/arm64", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert (one["here"], one["why"]) == (False, WHY)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["debian-13-ocaml-5.4/*"], 4),
        (["*flambda*", "--distribution", "debian-13"], 3),
        (["--pool", "macos-*"], 4),
        (["--pool", "macos-arm64", "--pool", "freebsd-amd64"], 4),
        (["--arch", "riscv64", "--distribution", "ubuntu-*"], 2),
    ],
)
def test_filters(capsys: Captured, arguments: list[str], count: int) -> None:
    assert run(["platforms", *arguments]) == 0
    assert len(capsys.readouterr().out.splitlines()) == count


def test_nothing_found_is_an_error(capsys: Captured) -> None:
    assert "no platform matches" in refusal(capsys, "platforms", "--arch", "vax")
    assert "did you mean archlinux-" in refusal(capsys, "platforms", "archlinux-ocaml-5.4")


def test_options_that_exclude_each_other(capsys: Captured, own: Path) -> None:
    assert "whole file" in refusal(capsys, "platforms", "--markdown", "--arch", "amd64")
    assert "whole file" in refusal(capsys, "platforms", "--check", own, "--json")


def test_a_file_by_the_environment_and_by_option(
    capsys: Captured, own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(OWN.replace("5.4", "5.5"))
    monkeypatch.setenv("OPAM_CI_PLATFORMS", str(own))
    assert run(["platforms", "alpine*"]) == 0
    assert capsys.readouterr().out.startswith(
        "alpine-3.23-ocaml-5.4/amd64\tyes\tsystem\tboxes\tcontainer"
    )
    assert run(["platforms", "alpine*", "--platforms", str(other)]) == 0
    assert capsys.readouterr().out.startswith("alpine-3.23-ocaml-5.5/amd64")


def test_a_valid_file_is_reported_as_valid(capsys: Captured, own: Path) -> None:
    assert run(["platforms", "--check", str(own)]) == 0
    assert capsys.readouterr().out == f"{own}: valid; platforms: 2, pools: 2\n"


def test_an_invalid_file_is_reported_with_a_line_for_each_error(
    capsys: Captured, own: Path
) -> None:
    own.write_text(OWN.replace("ocaml =", "caml =").replace("amd64", "x86"))
    assert run(["platforms", "--check", str(own)]) == 2
    output = capsys.readouterr()
    assert not output.out
    assert [line.removeprefix(f"{own}: ").split(";")[0] for line in output.err.splitlines()] == [
        "pools.mine: arch: no such architecture: 'x86'",
        "pools.boxes: arch: no such architecture: 'x86'",
        "platforms entry 1 (debian-13): 'ocaml' is missing",
        "platforms entry 1 (debian-13): unknown key 'caml'",
        "platforms entry 2 (alpine-3.23): 'ocaml' is missing",
        "platforms entry 2 (alpine-3.23): unknown key 'caml'",
    ]


def test_an_invalid_file_stops_the_commands_that_need_it(capsys: Captured, own: Path) -> None:
    own.write_text(OWN.replace("5.4", "54").replace("alpine", "Alpine"))
    output = refusal(capsys, "check", "--branch", "x", "--platforms", own, "--platform", "*")
    assert output.startswith(
        f"opam-ci: {own}: platforms entry 2 (Alpine-3.23): "
        "distribution: invalid distribution 'Alpine"
    )
    assert output.endswith("(and 1 more)")


@pytest.mark.parametrize(
    ("content", "output"),
    [
        (None, "No such file"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"x = 1\n" * 200_000, "over 1 MB"),
        (b"\x00", "not TOML"),
    ],
)
def test_not_a_file_of_platforms(
    capsys: Captured, tmp_path: Path, content: bytes | None, output: str
) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    assert run(["platforms", "--check", str(path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert output in line
    assert str(path) in line


def test_check_needs_a_platform_that_exists(capsys: Captured) -> None:
    output = refusal(capsys, "check", "--branch", "x", "--platform", "debian-13-ocaml-5.9/amd64")
    assert output.startswith(
        "opam-ci: no such platform: 'debian-13-ocaml-5.9/amd64'; did you mean debian-"
    )


def test_check_without_a_platform_uses_one_of_this_machine(capsys: Captured, own: Path) -> None:
    pools, _, rest = OWN.partition("[[platforms]]")
    own.write_text(pools + rest[rest.index("[[platforms]]") :])
    assert "name others" in refusal(capsys, "check", "--branch", "x", "--platforms", own)
