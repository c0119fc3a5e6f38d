"""What differs between an attempt and where the same job passed."""

from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.jobs.facts import BuildEnvironment, PhaseRun
from opam_ci.core.jobs.job import Phase
from opam_ci.core.pages.attempt import NEW_LINES, dependency_changes, new_lines


def environment(*solution: str, compiler: str = "ocaml.5.3.0") -> BuildEnvironment:
    return BuildEnvironment(image="", opam="2.3.0", compiler=(compiler,), solution=solution)


def found(text: str, *passed: str) -> dict[int, str]:
    data = text.encode("utf-8", "surrogateescape")
    run = PhaseRun(
        phase=Phase.BUILD, exit_code=2, duration=1, log_start=100, log_end=100 + len(data)
    )
    return {line.offset: line.text for line in new_lines(run, text, passed)}


def test_versions_differ_by_name() -> None:
    now = environment("dune.3.19.0", "fmt.0.9.0", "a.1", compiler="ocaml.5.3.0")
    before = environment("dune.3.17.2", "a.1", "logs.0.7.0", compiler="ocaml.5.2.1")
    assert [(each.name, each.before, each.now) for each in dependency_changes(now, before)] == [
        ("dune", "3.17.2", "3.19.0"),
        ("fmt", "", "0.9.0"),
        ("logs", "0.7.0", ""),
        ("ocaml", "5.2.1", "5.3.0"),
    ]


def test_without_a_solution_nothing_is_said_to_differ() -> None:
    assert dependency_changes(environment(), environment("dune.3.17.2")) == ()
    assert dependency_changes(environment("dune.3.17.2"), environment()) == ()


def test_lines_that_no_passed_log_has_are_new_whatever_their_numbers_and_paths() -> None:
    passed = "Compiling 3 of 7 in 0.21 s\nld -o /tmp/build-1/a/main.exe\nDone\n"
    text = (
        "Compiling 4 of 9 in 13.02 s\n"
        'File "a.ml", line 3\n'
        "ld -o /home/opam/x/main.exe\n"
        'File "a.ml", line 8\n'
        "Error: Unbound value frob\n"
        "make: *** [Makefile:3: all] Error 2\n"
    )  # fmt: skip
    assert found(text, passed, "other\n") == {
        100 + text.index('File "a.ml", line 3'): 'File "a.ml", line 3',
        100 + text.index("Error: Unbound"): "Error: Unbound value frob",
    }
    assert found(text, text) == {}


def test_only_the_first_new_lines_are_shown() -> None:
    text = "".join(f"{'x' * number} is wrong\n" for number in range(1, 200))
    assert len(found(text)) == NEW_LINES
    assert next(iter(found(text).values())) == "x is wrong"


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_texts_are_compared(text: str, passed: str) -> None:
    lines = found(text, passed)
    assert len(lines) <= NEW_LINES
    assert found(text, text) == {}
