"""The structure of logs: whose output a line is, what was wrapped, which package failed."""

import html
from collections.abc import Callable

import pytest

from opam_ci.core.classify import classify_text, every_rule
from opam_ci.core.classify.attribution import attribute
from opam_ci.core.classify.lines import clean
from opam_ci.core.classify.rule import Rule

REPORT = """\
#=== ERROR while compiling {package} ====================#
# context     2.3.0 | linux/x86_64 | ocaml-base-compiler.5.3.0 | file:///repo
# path        ~/.opam/5.3/.opam-switch/build/{package}
# command     ~/.opam/opam-init/hooks/sandbox.sh build make
# exit-code   2
# env-file    ~/.opam/log/x-7-57c631.env
# output-file ~/.opam/log/x-7-57c631.out
### output ###
"""
OUTSIDE_WORDS = [
    "E: The package lists or status file could not be parsed or opened.",
    "curl: (6) Could not resolve host: example.org",
    "fatal: unable to access 'https://example.org/': Could not resolve host",
    "Error response from daemon: no such image",
    "ERROR: http://apk.example/main: temporary error (try again later)",
    "rpc error: code = Unavailable",
]


def verdict_of(text: str) -> str:
    return classify_text(text, exit_code=None, phase=None).outcome


@pytest.mark.parametrize("message", OUTSIDE_WORDS)
def test_messages_about_hosts_of_a_sandboxed_command_are_the_packages(message: str) -> None:
    inside = f"{REPORT.format(package='a.1')}# {message}\n"

    assert verdict_of(message) == "errored"
    assert verdict_of(inside) == "failed"


PHYSICAL = {
    "disk-full-tool",
    "disk-full-counted",
    "disk-full-words",
    "oom-kernel",
    "process-killed",
    "out-of-memory-host",
    "out-of-memory-unclear",
    "illegal-instruction",
    "sandbox-bwrap",
    "storage-broken",
    "process-terminated",
    "cygwin-fork",
    "crash-unclear",
    "permission-unclear",
}
"""Rules about the machine under a package's command: only these excuse what it prints."""


@pytest.mark.parametrize("rule", every_rule().rules, ids=lambda rule: rule.id)
def test_a_package_that_prints_messages_of_the_ci_still_fails(rule: Rule) -> None:
    printed = "".join(f"# {line}\n" for line in rule.examples[0].split("\n"))
    inside = f"{REPORT.format(package='a.1')}{printed}# the answer is not 42\n"

    assert verdict_of(inside) == (rule.verdict if rule.id in PHYSICAL else "failed")


@pytest.mark.parametrize("message", OUTSIDE_WORDS)
def test_the_same_messages_after_the_report_are_the_cis(message: str) -> None:
    text = f"{REPORT.format(package='a.1')}# make: nothing to do\n\n{message}\n"

    assert verdict_of(text) == "errored"


def test_a_report_without_its_marks_ends_at_the_next_message_of_opam() -> None:
    bare = REPORT.format(package="a.1").replace("# ", "")
    inside = f"{bare}curl: (6) Could not resolve host: example.org\n"
    behind = f"{bare}done\n<><> Error report <><>\ncurl: (6) Could not resolve host: example.org\n"

    assert verdict_of(inside) == "failed"
    assert verdict_of(behind) == "errored"


def test_verbose_output_is_the_packages_too_and_apts_is_not() -> None:
    command = '+ /home/opam/.opam/opam-init/hooks/sandbox.sh "build" "make" (CWD=/x/build/a.1)\n'
    failed = "- E: Failed to fetch http://deb.example/x.deb  Hash Sum mismatch\n"
    end = '[ERROR] The compilation of a.1 failed at "sandbox.sh build make".\n'

    assert verdict_of(f"{command}{failed}{end}") == "failed"
    assert verdict_of(f"{command}- make: Entering directory 'x'\n- \n{failed}{end}") == "failed"
    cited = "".join(f"> {line}\n" for line in f"{command}{failed}{end}".splitlines())
    assert verdict_of(cited) == "failed"
    assert verdict_of(f'+ /usr/bin/sudo "apt-get" "install" "x"\n{failed}{end}') == "errored"


def test_a_killed_compiler_inside_a_report_is_still_ours() -> None:
    assert verdict_of(f"{REPORT.format(package='a.1')}# make: *** [all] Killed\n") == "errored"
    disk = "# cp: error writing 'x': No space left on device\n"
    assert verdict_of(f"{REPORT.format(package='a.1')}{disk}") == "errored"


def test_opam_1_had_no_sandbox_so_that_its_reports_hide_nothing() -> None:
    text = (
        "===== ERROR while installing a.1 =====\n"
        "# opam-version 1.1.0\n"
        "# path         /home/opam/.opam/system/build/a.1\n"
        "# stdout-file  /home/opam/.opam/system/build/a.1/a-31-d8a4ae.out\n"
        "### stderr ###\n"
        "# curl: (6) Could not resolve host: example.org\n"
    )

    assert verdict_of(text) == "errored"


@pytest.mark.parametrize("stamp", ["", "2024-05-08T11:11:04.1234567Z ", "#12 34.56 ", "    "])
def test_a_message_that_opam_wrapped_reads_as_one_line(stamp: str) -> None:
    wrapped = [
        "[ERROR] Got some errors while processing: a.1",
        "  - [a.1] https://x.example/a.tgz (Bad",
        "    checksum, expected",
        "    sha512=00)",
    ]
    text = "\n".join(f"{stamp}{line}" for line in wrapped)

    verdict = classify_text(text, exit_code=None, phase=None)

    assert (verdict.outcome, verdict.reason, verdict.rule) == (
        "failed",
        "checksum",
        "source-checksum",
    )
    assert verdict.numbers[0] == 2


def test_bullets_below_a_message_do_not_continue_it() -> None:
    lines = clean("[ERROR] Package conflict!\n  * No agreement on the version of ocaml:\n")

    assert lines[0].text == "[ERROR] Package conflict!"


DEPENDENCY_FAILS = {
    "path": "# path  /home/opam/.opam/system/build/dep.1\n### stderr ###\n# make: *** [x] Error 1",
    "opam 2 path": "# path  ~/.opam/5.3/.opam-switch/build/dep.1\n# make: *** [x] Error 1",
    "log files": "# output-file ~/.opam/log/dep-7-57c631.out\n# make: *** [x] Error 1",
    "make": "# make[1]: Leaving directory `/h/build/dep.1/src'\n# make: *** [x] Error 1",
    "opam 1.2 summary": "make: *** [x] Error 1\nThe following failed\n - install   dep.1\n"
    "Due to the errors, the following have been cancelled\n - install   asked.2",
}


@pytest.mark.parametrize("text", DEPENDENCY_FAILS.values(), ids=DEPENDENCY_FAILS)
@pytest.mark.parametrize("name", ["asked", "asked.2"])
def test_the_report_names_the_package_whose_build_failed(text: str, name: str) -> None:
    ours = text.replace("dep.1", "asked.2").replace("dep-7", "asked-7")

    blamed = classify_text(f"{text}\n'opam install {name}' failed.", exit_code=None, phase=None)
    own = classify_text(f"{ours}\n'opam install {name}' failed.", exit_code=None, phase=None)

    assert (blamed.outcome, blamed.reason) == ("failed", "dependency")
    assert (own.outcome, own.reason) == ("failed", "build")


@pytest.mark.parametrize("message", ["NOT be proceeded", "NOT proceed"])
def test_opam_before_1_2_lists_the_actions_that_it_will_not_start(message: str) -> None:
    text = (
        f"Due to some errors while processing dep.1, the following actions will {message}:\n"
        " - install asked.2\n\n"
        "==== ERROR [while installing dep.1] ====\n"
        "# exit-code       1\n"
    )

    verdict = classify_text(text, exit_code=None, phase=None)

    assert (verdict.reason, verdict.package) == ("dependency", "dep.1")


def test_a_directory_is_not_a_requested_package() -> None:
    text = f"$ opam install .\n{REPORT.format(package='a.1')}# Error: Unbound module X\n"

    assert attribute(clean(text)).requested == ()
    assert classify_text(text, exit_code=None, phase=None).reason == "build"


@pytest.mark.parametrize(
    "prompt", ["$ ", "+ ", "", "\N{HEAVY RIGHT-POINTING ANGLE QUOTATION MARK ORNAMENT} "]
)
def test_a_typed_command_names_the_requested_packages(prompt: str) -> None:
    assert attribute(clean(f"{prompt}opam install a=1 b.2\n")).requested == ("a.1", "b.2")


DRESSES: dict[str, Callable[[str], str]] = {
    "carriage returns": lambda text: text.replace("\n", "\r\n"),
    "colours": lambda text: "\n".join(f"\x1b[0;31m{line}\x1b[0m" for line in text.split("\n")),
    "BuildKit": lambda text: "\n".join(f"#12 34.56 {line}" for line in text.split("\n")),
    "Open Build Service": lambda text: "\n".join(f"[   74s] {line}" for line in text.split("\n")),
    "citation": lambda text: "\n".join(f"> {line}" for line in text.split("\n")),
    "citation twice": lambda text: "\n".join(f">> {line}" for line in text.split("\n")),
    "docker compose": lambda text: "\n".join(f"worker-1  | {line}" for line in text.split("\n")),
    "gh run view": lambda text: "\n".join(
        f"build\tRun opam\t2024-05-08T11:11:04.1234567Z {line}" for line in text.split("\n")
    ),
    "Kubernetes": lambda text: "\n".join(
        f"2024-05-08T11:11:04.123456789Z stdout F {line}" for line in text.split("\n")
    ),
    "GitLab": lambda text: "\n".join(
        f"2024-05-08T11:11:04.123456Z 01O {line}" for line in text.split("\n")
    ),
    "HTML": html.escape,
    "typographic quotes": lambda text: text.translate(
        str.maketrans("'`", "\N{RIGHT SINGLE QUOTATION MARK}\N{LEFT SINGLE QUOTATION MARK}")
    ),
    "a Latin code page": lambda text: (
        text.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}")
        .encode("cp1252", "ignore")
        .decode("utf-8", "replace")
    ),
    "obuilder": lambda text: (
        '/: (run (network host)\n        (shell "opam reinstall foo.1.0;\\\n'
        f'        \\n        res=$?"))\n{text}\n'
        "2024-06-19 03:09.04: Job failed: Failed: Build failed"
    ),
    "what went well before": lambda text: f"-> installed dune.3.16.0\nDone.\n{text}",
}


@pytest.mark.parametrize("dress", DRESSES.values(), ids=DRESSES)
def test_no_rule_depends_on_the_decoration_of_a_log(dress: Callable[[str], str]) -> None:
    wrong = [
        (rule.id, verdict.rule)
        for rule in every_rule()
        if not rule.quoted and rule.id != "many-sources"
        for verdict in [classify_text(dress(rule.examples[0]), exit_code=None, phase=None)]
        if (verdict.outcome, verdict.cause) != (rule.verdict, rule.cause)
    ]

    assert wrong == []
