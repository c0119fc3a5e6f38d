"""Traps of real logs, offsets, speed, and arbitrary texts."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opam_ci.core.classify import classify_text, cut, every_rule
from opam_ci.core.classify.excerpt import byte_length
from opam_ci.core.classify.lines import clean
from opam_ci.core.classify.matching import TextVerdict
from opam_ci.core.classify.rule import RuleClass
from opam_ci.core.jobs.job import Phase

HEADER = (
    "#=== ERROR while compiling foo.1.0 ===========#\n"
    "# context   2.3.0 | linux/x86_64 | ocaml-base-compiler.5.3.0 | file:///r\n"
    "# command   ~/.opam/opam-init/hooks/sandbox.sh build dune build -p foo\n"
    "# exit-code {}\n### output ###\n"
)
INFRASTRUCTURE = (
    "curl: (6) Could not resolve host: example.org",
    "connect: Connection refused",
    "E: Failed to fetch http://x/y.deb  503  Service Unavailable",
    "fatal: the remote end hung up unexpectedly",
    "Error response from daemon: conflict",
    "cp: cannot stat 'x': Input/output error",
    "simulated: No space left on device",
    "mount: x: failed",
    "Cannot fork",
    "502 Bad Gateway",
    "Lost connection to worker 3",
)
TEST_FAILURES = (
    "[FAIL]        net    3   retries after a refused connection.",
    "FAILED: Cases: 9 Tried: 9 Errors: 0 Failures: 1 Skip: 0 Todo: 0 Timeouts: 0.",
    "not ok 7 - retries",
    "3 tests failed",
    "failure (1 tests failed, 0 tests errored, ran 3 tests)",
)


def judged(text: str, exit_code: int | None = None, phase: Phase | None = None) -> TextVerdict:
    return classify_text(text, exit_code=exit_code, phase=phase)


@pytest.mark.parametrize("failure", TEST_FAILURES)
@pytest.mark.parametrize("noise", INFRASTRUCTURE)
def test_a_failed_test_stays_failed_whatever_it_prints(failure: str, noise: str) -> None:
    for text in (f"{noise}\n{failure}", f"{failure}\n{noise}", f"{noise}\n{failure}\n{noise}"):
        verdict = judged(HEADER.format(1) + "\n".join(f"# {line}" for line in text.split("\n")))

        assert (verdict.outcome, verdict.reason) == ("failed", "test"), verdict


@pytest.mark.parametrize("noise", INFRASTRUCTURE)
def test_a_compiler_error_outweighs_its_surroundings(noise: str) -> None:
    error = 'File "src/a.ml", line 3, characters 2-9:\nError: Unbound module Foo'

    assert judged(f"{noise}\n{error}").outcome == "failed"
    assert judged(f"{error}\n{noise}").outcome == "failed"


def test_a_full_disk_beats_the_compiler_error_that_follows_from_it() -> None:
    text = (
        'Fatal error: exception Sys_error("out.o: No space left on device")\n'
        'File "a.ml", line 1:\nError: Could not find the .cmi file for interface a.mli.'
    )

    assert judged(text).cause == "disk_full"


@pytest.mark.parametrize(
    "quoted",
    [
        '          echo "E: No space left on device; Job cancelled"',
        '        test "$x" != "" && echo "opam-repo-ci detected dependencies failing: ${x}";',
        '"/usr/bin/env" "bash" "-c" "make || echo Job cancelled',
        '\\n        echo \\"A package failed and has been disabled for CI\\";\\',
        '12 | let () = failwith "Temporary failure in name resolution"',
        "\x1b[36;1mcurl: (7) Failed to connect\x1b[0m",
        "RUN apt-get update || echo Temporary failure resolving",
    ],
)
def test_what_is_only_quoted_has_not_happened(quoted: str) -> None:
    assert judged(f"starting\n{quoted}\ndone").outcome == "unknown"


def test_an_expected_output_is_not_an_event() -> None:
    text = (
        ' File "http.t", line 1, characters 0-0:\n'
        " diff --git a/_build/default/http.t b/_build/default/http.t.corrected\n"
        " --- a/_build/default/http.t\n +++ b/_build/default/http.t.corrected\n"
        " @@ -1,3 +1,3 @@\n    $ get\n -  200 OK\n +  404 Not found\n +  Connection refused\n"
    )

    verdict = judged(text)

    assert (verdict.outcome, verdict.reason, verdict.rule) == ("failed", "test", "test-diff")


@pytest.mark.parametrize(
    "harmless",
    [
        "fatal: not a git repository (or any of the parent directories): .git",
        "ocamlfind ocamlopt -c network.ml connection.ml timeout.ml dns.ml",
        "checking for getaddrinfo... yes",
        "warning: Unix.EROFS is never used",
        "- checking whether the C compiler works... yes",
        "0 failures, 0 errors",
        "installed conf-zfs.1 libbtrfs.2",
    ],
)
def test_harmless_messages_beside_a_compile_error_change_nothing(harmless: str) -> None:
    text = f'{harmless}\nFile "a.ml", line 1, characters 0-3:\nError: Unbound value x'

    assert (judged(text).outcome, judged(text).reason) == ("failed", "build")
    assert judged(harmless).outcome != "errored"


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("ocamlopt got signal -7", "out_of_memory"),
        ("process exited with signal -11", "worker_lost"),
        ("killed by signal 9", "out_of_memory"),
        ("exited with code 137", "out_of_memory"),
    ],
)
def test_signals_in_the_numbers_of_ocaml_and_of_shells(message: str, cause: str) -> None:
    assert judged(message).cause == cause


def test_a_404_is_judged_by_the_program_and_the_file() -> None:
    lost = "curl: code 404 while downloading https://x.org/a.tgz"
    own = f"[ERROR] Failed to get sources of foo.1.0: HTTP error code 404\n{lost}"
    other = own.replace("foo.1.0", "bar.2.0")
    asked = "\n'opam install -j 2 -vy foo.1.0' failed."
    remote = "[ERROR] curl: code 404 while downloading\n https://x.org/urls.txt\n"

    assert judged(own + asked).reason == "source"
    assert judged(other + asked).reason == "dependency"
    assert judged(f"{remote}[ERROR] Could not fetch repo").outcome == "errored"
    assert judged("[ERROR] https://x.org/a.tgz is not available").outcome == "unknown"


def test_a_failed_dependency_is_named() -> None:
    text = HEADER.replace("foo", "bar").format(2) + (
        "# make: *** [all] Error 1\n\n"
        "<><> Error report <><><>\n+- The following actions failed\n| - build bar 1.0\n+-\n"
        "+- The following actions were aborted\n| - install foo 1.0\n+-\n"
    )

    verdict = judged(text)

    assert (verdict.outcome, verdict.reason, verdict.package) == ("failed", "dependency", "bar.1.0")


def test_the_package_itself_is_not_a_dependency_of_those_that_wait_for_it() -> None:
    text = HEADER.format(2) + (
        "# make: *** [all] Error 1\n+- The following actions failed\n| - build foo 1.0\n"
        "+- The following actions were aborted\n| - install user 1.0\n"
        "'opam reinstall --with-test foo.1.0' failed."
    )

    assert judged(text).reason == "build"


@pytest.mark.parametrize("message", ["hello", "", "\n\n", "Done.", "exit status 3"])
def test_a_text_that_no_rule_matches_proves_nothing(message: str) -> None:
    assert judged(message).outcome == "unknown"
    assert judged(message, exit_code=0).outcome == "unknown"
    assert judged(message, exit_code=31).outcome == "unknown"
    assert judged(message, exit_code=60).cause == "solver_timeout"


def test_network_messages_of_a_build_phase_are_the_packages() -> None:
    message = "curl: (7) Failed to connect to x.org port 443: Connection refused"

    assert judged(message).outcome == "errored"
    assert judged(message, phase=Phase.FETCH).outcome == "errored"
    assert judged(message, phase=Phase.BUILD).outcome == "unknown"


def test_lines_keep_their_places_in_the_original() -> None:
    text = "\x1b[1mé\x1b[0m\r\n10%\r20%\rE: Write error - write (28: No space left on device)\n"

    verdict = judged(text)

    [line] = verdict.lines
    assert text.encode()[line.offset :].startswith(b"E: Write error")
    assert verdict.numbers == (2,)


def test_offsets_after_a_cut_count_from_the_end() -> None:
    whole = b"first line\n" + b"x" * 5000 + b"\nE: (28: No space left on device)\nend\n"
    start, end = 100, 100 + len(whole)
    text = cut(whole, head=50, tail=100)

    lines = clean(text, log_start=start, log_end=end)

    places = {line.text: line.offset - start for line in lines}
    assert places["first line"] == 0
    assert whole[places["E: (28: No space left on device)"] :].startswith(b"E: (28")
    assert whole[places["end"] :] == b"end\n"


def test_a_cut_mark_that_the_log_only_quotes_moves_nothing() -> None:
    text = "[opam-ci: 500 bytes left out here]\nlast\n"

    assert clean(text, log_start=7, log_end=7 + len(text))[-1].offset == 7 + text.index("last")


@given(st.binary(max_size=400), st.integers(1, 60), st.integers(1, 60))
def test_any_cut_text_has_offsets_within_the_log(data: bytes, head: int, tail: int) -> None:
    lines = clean(cut(data, head=head, tail=tail), log_start=10, log_end=10 + len(data))

    offsets = [line.offset for line in lines if "opam-ci" not in line.text]
    # A byte sequence cut in two, or a replacement character in the log, costs a few bytes.
    assert all(10 <= offset <= 10 + len(data) + 9 for offset in offsets)


@given(st.text(max_size=200))
def test_byte_lengths_are_those_of_utf_8(text: str) -> None:
    if "\ufffd" not in text:
        assert byte_length(text) == len(text.encode())


_WORDS = st.sampled_from(sorted({text for rule in every_rule() for text in rule.literals}))
_LOOSE = st.sampled_from(
    sorted(
        {
            text
            for rule in every_rule()
            if rule.kind.rank > RuleClass.TEST.rank
            for text in rule.literals
        }
    )
)
_EXAMPLES = st.sampled_from([text for rule in every_rule() for text in rule.examples])
_TEXTS = st.lists(st.one_of(st.text(max_size=40), _WORDS, _EXAMPLES), max_size=12).map("\n".join)


@settings(max_examples=150)
@given(_TEXTS, st.one_of(st.none(), st.integers(-300, 300)), st.sampled_from([None, *Phase]))
def test_no_text_breaks_it(text: str, exit_code: int | None, phase: Phase | None) -> None:
    verdict = judged(text, exit_code, phase)

    assert verdict.outcome in {"failed", "errored", "skipped", "unknown"}
    assert (verdict.outcome == "errored") == (verdict.cause is not None)
    assert (verdict.outcome in {"failed", "skipped"}) == (verdict.reason is not None)
    assert all(len(line.text) <= 400 for line in verdict.lines)
    assert len(verdict.lines) == len(verdict.numbers)


@settings(max_examples=60)
@given(st.lists(_LOOSE, max_size=6), st.sampled_from(TEST_FAILURES))
def test_messages_about_infrastructure_never_hide_a_failed_test(
    message: list[str], fail: str
) -> None:
    verdict = judged("\n".join([*(f"log: {word} ..." for word in message), fail]))

    assert verdict.outcome in {"failed", "skipped"}, verdict


@pytest.mark.parametrize(
    "line",
    [
        " ".join(text for rule in every_rule() for text in sorted(rule.literals))[:1190],
        "No space left on devicE " * 49,
        "Error: " * 160,
        "\x1b[" * 580,
        "# " * 590,
        "ERROR while compiling " * 52,
        "make: *** [" * 100,
        "a" * 1190,
    ],
)
def test_a_hostile_megabyte_is_read_in_time(line: str) -> None:
    text = f"{line}\n" * (1_000_000 // (len(line) + 1))

    begun = time.process_time()
    judged(text)

    # Far from the minutes of a pattern that backtracks, and slack for a loaded machine.
    assert time.process_time() - begun < 5
