"""Later lines: a report after an error, an installed package after a probe."""

import pytest

from opam_ci.core.classify import TextVerdict, classify_text
from opam_ci.core.classify.attribution import attribute
from opam_ci.core.classify.lines import clean

REPORT = (
    "#=== ERROR while compiling {package} ====================#\n"
    "# path        ~/.opam/5.3/.opam-switch/build/{package}\n"
    "# command     ~/.opam/opam-init/hooks/sandbox.sh build make\n"
    "# exit-code   {code}\n"
    "### output ###\n"
    "# {output}\n"
)
TROUBLE = [
    "curl: (28) Operation timed out after 300000 milliseconds with 0 bytes received",
    "warning: spurious network error (3 tries remaining)",
    "fatal: unable to access 'https://example.org/': Could not resolve host: example.org",
    "error: RPC failed; curl 92 HTTP/2 stream 7 was not closed cleanly: CANCEL (err 8)",
    "rsync error: some files/attrs were not transferred (code 23) at main.c(1179)",
    "Error response from daemon: no such container",
]


def verdict_of(text: str, exit_code: int | None = None) -> TextVerdict:
    return classify_text(text, exit_code=exit_code, phase=None)


def report(*, package: str = "a.1", code: int = 2, output: str = "no") -> str:
    return REPORT.format(package=package, code=code, output=output)


@pytest.mark.parametrize("message", TROUBLE)
def test_an_error_after_which_opam_continued_is_not_the_cause(message: str) -> None:
    assert verdict_of(message).outcome == "errored"
    assert verdict_of(f"{message}\n{report()}").outcome == "failed"


@pytest.mark.parametrize("message", TROUBLE)
def test_an_error_after_the_report_is_a_fault_of_the_ci(message: str) -> None:
    assert verdict_of(f"{message}\n{report()}\n{message}").outcome == "errored"


@pytest.mark.parametrize("code", [137, 143, 130])
def test_a_killed_command_does_not_report_a_failure(code: int) -> None:
    assert verdict_of(f"{TROUBLE[0]}\n{report(code=code)}").outcome == "errored"


@pytest.mark.parametrize(
    ("package", "output"),
    [
        ("conf-gmp.4", "test.c:1:10: no gmp here"),
        ("tuareg.2", "make: emacs: Command not found"),
        ("a.1", "Package foo was not found in the pkg-config search path."),
    ],
)
def test_a_missing_system_package_follows_from_the_trouble(package: str, output: str) -> None:
    text = f"Temporary failure resolving 'deb.example'\n{report(package=package, output=output)}"

    assert verdict_of(text).cause == "dns"


def test_a_library_that_a_configure_script_only_looked_for_is_not_missing() -> None:
    probe = "- ocamlfind: Package `lablgtk2' not found\n"

    assert verdict_of(probe).outcome == "failed"
    assert verdict_of(f"{probe}-> installed ocamlgraph.1.8.7\n").outcome == "unknown"
    assert verdict_of(f"-> installed ocamlgraph.1.8.7\n{probe}").outcome == "failed"


def test_an_installed_package_hides_no_exit_code() -> None:
    assert verdict_of("-> installed a.1", exit_code=60).cause == "solver_timeout"


@pytest.mark.parametrize(
    "plan",
    [
        " - install   a.1                 [required by b]",
        "  \u2217 install  a  1              [required by b, c]",
        "  \u2217  install  a  1              [required by b]",
        "  - upgrade  a  0.9 to 1         [required by b]",
        "  - install a 1.0 [required by b]",
    ],
)
def test_the_plan_shows_which_packages_were_not_requested(plan: str) -> None:
    version = "1.0" if "1.0" in plan else "0.9" if "0.9" in plan else "1"
    text = f"The following actions will be performed:\n{plan}\n{report(package=f'a.{version}')}"

    assert attribute(clean(text)).required == (f"a.{version}",)
    assert verdict_of(text).reason == "dependency"


def test_opam_2_0_names_what_failed_without_its_version() -> None:
    plan = "  \u2217 install a 1 [required by b]\n  \u2217 install b 1\n"
    text = f'{plan}[ERROR] The compilation of a failed at "make".\n{report(package="a.1")}'

    assert verdict_of(text).reason == "dependency"
    assert verdict_of(text.replace("[required by b]", "")).reason == "build"


def test_a_hint_for_one_package_names_the_one_that_failed() -> None:
    hint = "=-=- conf-ncurses.1 troobleshooting -=-=-=-=\n"

    assert verdict_of(f"{hint}'opam install -j 2 -vy mirage' failed.").reason == "dependency"
    assert verdict_of(f"{hint}'opam install conf-ncurses' failed.").reason == "build"


@pytest.mark.parametrize("prefix", ["#12 34.5 ", "worker-1  | ", "2024-05-08T11:11:04.12Z 01O "])
def test_an_empty_line_stays_one_behind_its_prefix(prefix: str) -> None:
    lines = f" - install c.1\n\n{report()}".split("\n")

    assert attribute(clean("\n".join(f"{prefix}{line}" for line in lines))).aborted == ("c.1",)


def test_a_package_without_such_a_mark_failed_by_itself() -> None:
    plan = "  - install a 1 [required by b]\n  - install b 2\n"

    assert verdict_of(f"{plan}{report(package='b.2')}").reason == "build"


def test_what_a_plan_without_its_head_no_longer_shows_is_a_dependency() -> None:
    # opam lists the requested package after its dependencies.
    plan = "  - install a 1 [required by b]\n  - install b 2\n"
    upgrade = "  - install a 1 [required by d]\n  - install b 2\n"

    assert verdict_of(f"{plan}{report(package='c.2')}").reason == "dependency"
    assert verdict_of(f"{upgrade}{report(package='c.2')}").reason == "build"


def test_opams_signs_and_frames_hide_no_action() -> None:
    failed = "\u250c\u2500 The following actions failed\n\u2502 \u03bb build {}  1\n\u2514\u2500\n"
    done = "\u250c\u2500 The following changes have been performed\n\u2502 \u2217 install b 2\n"

    found = attribute(clean(f"$ opam install c\n{failed.format('a')}{done}"))

    assert (found.failed, found.blame) == (("a.1",), "a.1")
    assert attribute(clean(f"$ opam install a\n{failed.format('a')}{done}")).blame is None


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ('        exit 1" failed with exit status 60', "solver_timeout"),
        ("Error: The process '/opt/tools/opam' failed with exit code 60", "solver_timeout"),
        ("Error: The process '/opt/tools/opam' failed with exit code 2", "opam_internal"),
        ("'opam install a' exited with code 99", "opam_internal"),
    ],
)
def test_an_exit_code_of_opam_in_the_message_of_its_caller(message: str, cause: str) -> None:
    assert verdict_of(message).cause == cause


@pytest.mark.parametrize("code", [1, 10, 40, 100, 128])
def test_an_exit_code_that_means_several_things_proves_nothing(code: int) -> None:
    for message in (
        f'        exit 1" failed with exit status {code}',
        f"Error: The process '/usr/bin/sudo' failed with exit code {code}",
    ):
        assert verdict_of(message).outcome == "unknown"


ABORTED = "The following actions were aborted\n"


def test_a_truncated_list_of_waiting_packages_is_used() -> None:
    failed = report(package="conf-ncurses.1", code=1)

    assert verdict_of(failed).reason == "build"
    assert verdict_of(f"{failed}\n{ABORTED}").reason == "dependency"
    assert verdict_of(f"{failed}\n{ABORTED}No changes have been performed").reason == "build"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("$ opam install . --deps-only --with-test", "dependency"),
        ("$ opam install --deps-only a", "dependency"),
        ("$ opam install --deps-only a.1\n$ opam install a.1", "checksum"),
        ("$ opam install . --with-test", "checksum"),
    ],
)
def test_a_request_for_dependencies_only_has_only_their_failures(command: str, reason: str) -> None:
    name = "b.v0.14" if reason == "dependency" else "a.1"
    listed = "[ERROR] The sources of the following couldn't be obtained, aborting:\n"

    assert verdict_of(f"{command}\n{listed}          - {name}: Bad checksum").reason == reason


def test_a_list_without_its_title_before_a_report_is_what_waits() -> None:
    waiting = " - install c.1\n - install d.2\n\n"

    assert attribute(clean(f"{waiting}{report()}")).aborted == ("c.1", "d.2")
    assert attribute(clean(f"{waiting}=== 2 to install ===\n{report()}")).aborted == ()
    assert verdict_of(f"{waiting}{report()}").reason == "dependency"


def test_a_commit_of_a_submodule_that_is_gone_is_the_sources_fault() -> None:
    reported = "fatal: remote error: upload-pack: not our ref 5de5a4409794"
    path = "Fetched in submodule path 'x', but it did not contain 5de5a4409794."

    assert verdict_of(reported).cause == "git"
    assert verdict_of(f"{reported}\n{path}").reason == "source"
