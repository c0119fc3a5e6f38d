"""Package managers: their commands, and what of an opam file reaches them."""

import pytest

from opam_ci.clients.runners.phases import system_packages
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.clients.runners.phases.system_packages import APT, MANAGERS, Manager
from opam_ci.clients.runners.sandbox.process import ProcessResult

HOSTILE = (
    *("-oDPkg::Pre-Invoke::=id", "--root=/", "bash-", "!bash", "~bash", "@group", "$(id)"),
    *("../x.rpm", "/var/x.rpm", "http://example.org/x.rpm", "libc<9", "libc=1", "a b", "gtk3 -y"),
    *("*", "lib[a-z]", "^task", "(a", "%macro", "\x1b[31mred"),
)


async def family(manager: Manager | None, name: str) -> str:
    async def run(step: Step, output: bytearray) -> ProcessResult:
        assert step.argv == ("opam", "var", "os-family")
        assert {step.network, step.as_root} == {False}
        output += f"[WARNING] something else\n{name}\n".encode()
        return ProcessResult()

    found, known = await system_packages.find_manager(run)
    assert found is manager
    return known


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("debian", "apt-get"),
        ("ubuntu", "apt-get"),
        ("alpine", "apk"),
        ("arch", "pacman"),
        ("fedora", "dnf"),
        ("rhel", "dnf"),
        ("centos", "dnf"),
        ("suse", "zypper"),
        ("opensuse", "zypper"),
        ("bsd", "pkg"),
        ("homebrew", "brew"),
    ],
)
async def test_opams_family_decides(name: str, program: str) -> None:
    (manager,) = (each for each in MANAGERS if each.install[0] == program)
    assert manager.update[0] == program
    assert await family(manager, name) == name


async def test_an_unknown_family_has_no_manager() -> None:
    assert await family(None, "gentoo") == "gentoo"


@pytest.mark.parametrize("manager", MANAGERS, ids=lambda each: each.install[0])
def test_no_name_is_an_option_a_path_or_a_removal(manager: Manager) -> None:
    good = ("libgmp-dev", "g++", "SDL2-devel", "libstdc++6", "py3.11_x")
    packages, refused = manager.names("\n".join((*good, *HOSTILE, "", "[NOTE] opam's own")))
    assert packages == tuple(sorted(good))
    assert set(refused) == {each for each in HOSTILE if not each.startswith(("[", " "))}
    steps = system_packages.install(manager, packages, (("Key", "value"),))
    assert steps[0].argv[-len(packages) - 1 :] == ("--", *packages)
    assert steps[0].directory == "/"
    assert all(step.as_root is manager.as_root for step in steps)


def test_names_of_some_managers() -> None:
    by_program = {each.install[0]: each for each in MANAGERS}
    assert by_program["apk"].names("flint-dev@edgecommunity\n")[1] == ()
    assert by_program["brew"].names("llvm@18\n")[1] == ()
    assert by_program["pkg"].names("devel/llvm19\n")[1] == ()
    # A tap's formulas are code of whoever has that account.
    assert by_program["brew"].names("somebody/tap/formula\n")[1] == ("somebody/tap/formula",)
    assert by_program["apt-get"].names("libfoo:i386\n")[0] == ("libfoo:i386",)


def test_only_apt_gets_options_of_apt() -> None:
    options = (("Acquire::Retries", "3"),)
    for manager in MANAGERS:
        steps = (
            system_packages.update(manager, options),
            system_packages.install(manager, ("x",), options)[0],
        )
        assert all(("-oAcquire::Retries=3" in step.argv) is (manager is APT) for step in steps)
        assert all(step.network for step in steps)
        assert not any("Retries" in step.title for step in steps)


def test_a_bounded_update_ends_by_itself() -> None:
    step = system_packages.update(APT, (), bounded=True)
    assert step.argv[:4] == ("timeout", "-k", "5", "240")
    assert step.argv[4:6] == ("apt-get", "update")
    assert "timeout" not in step.title


def test_what_enables_a_repository_is_installed_first() -> None:
    (dnf,) = (each for each in MANAGERS if each.install[0] == "dnf")
    first, second = system_packages.install(dnf, ("a", "epel-release", "z"), ())
    assert first.argv[-2:] == ("--", "epel-release")
    assert second.argv[-3:] == ("--", "a", "z")
