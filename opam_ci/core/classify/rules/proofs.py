"""Proof against a package: words that only a broken package, or its tests, bring out."""

from opam_ci.core.classify.rule import Rule
from opam_ci.core.classify.rules.make import rule
from opam_ci.core.outcome import FailureReason

_BUILD, _TEST = FailureReason.BUILD, FailureReason.TEST

# Python's tracebacks have `File "x", line 3, in f`: those are not meant.
_LOCATION = (
    r"^(?:File \"[^\"]+\", lines? [\d-]+(?:, characters|:|$)|Characters \d+-\d+:"
    r"|Command line: camlp)"
)

TESTS: tuple[Rule, ...] = (
    rule(
        "test-frameworks",
        _TEST,
        r"^.?\[FAIL\]",
        r"^\W{0,3}\d+ (?:failures?|errors?)! (?:in |\d+ tests? run)",
        r"^FAILED: Cases",
        r"\(\d+ tests? failed",
        r"^Test .* (?:failed|errored on) \(\d+ shrink",
        r"\btest [`'\"].{1,200}['`\"] (?:failed on|raised exception|errored)",
        r"^\[✗\] ",
        # alcotest's older mark of a test that raised: its name, number and title in columns.
        r"^\[ERROR\] {4,}\S.{0,80} {2,}+\d+ {2,}\S",
        r"^-{3,} Failure -{3,}",
        r"^(?:Error|Failure): \S.{0,200}:\d+:\S",
        r"^OUnit: ",
        r"^File \"[^\"]+\", line \d+, characters [\d-]+: .{0,200}(?:is false\.|threw )",
        r"^# Ran \d+ tests?, .*[1-9]\d{0,8} failed",
        r"^failure \(\d+ tests failed",
        r"^FAILED \d+ / \d+ tests",
        r"Tests had a [\d.]+% failure rate",
        r'^E: Failure\("Tests had',
        words="fail|[error]|test |[✗]|ounit|is false|threw|error: ",
        why=(
            "Test frameworks of OCaml (alcotest, OUnit, QCheck, inline tests) report failed "
            "tests in these words, whatever else the tests printed."
        ),
        example="[FAIL]        lookup          0   resolves a name.",
        not_when=[
            ("unknown", "FAILED tests are listed below; there are none"),
        ],
    ),
    rule(
        "test-diff",
        _TEST,
        r"^(?:\S*/)?(?:git --no-pager diff --no-index|diff -u|patdiff|cmp) ",
        r"^diff --git a/_build/",
        r"^\+\+\+ (?:b/)?_build/\S+",
        r"^(?:---|\+\+\+) \S+\.corrected\b",
        r"^\+\+\+ \S+\.(?:output|out|corrected)\b",
        words="diff|+++|cmp|corrected",
        after=r'^File "[^"]+", line 1, characters 0-0',
        quoted=True,
        why=(
            "dune prints a difference between a test's expected and its actual output. What "
            "stands inside the difference is data, not an event."
        ),
        example=(
            'File "test/cli.t", line 1, characters 0-0:\n'
            "diff --git a/_build/default/test/cli.t b/_build/default/test/cli.t.corrected\n"
            "--- a/_build/default/test/cli.t\n"
            "+++ b/_build/default/test/cli.t.corrected\n"
            "@@ -1,2 +1,2 @@\n"
            "   $ fetch x\n"
            "-  200 OK\n"
            "+  404 Not Found: could not resolve host"
        ),
    ),
    rule(
        "test-diff-dune",
        _TEST,
        r"^(?:---|\+\+\+) (?:[ab]/)?_build/\S+",
        r"^(?:---|\+\+\+) \S+\.(?:expected|corrected|actual)\b",
        r"^(?:\$ )?\(cd _build/\S+ && \S*\b(?:diff|cmp|patdiff)\b",
        r"^Running\[\d+\]: \(cd _build/\S+ && \S*\b(?:diff|cmp|patdiff)\b",
        words="---|+++|cd _build",
        quoted=True,
        why=(
            "Two versions of a file in dune's build directory differ: only its tests compare such."
        ),
        example=(
            "--- a/_build/default/test/out.expected\n"
            "+++ b/_build/default/test/out.actual\n"
            "@@ -1 +1 @@\n"
            "-a\n"
            "+b"
        ),
    ),
    rule(
        "test-generic",
        _TEST,
        (
            r"^(?:FAIL: |not ok \d+\b|# FAIL: +[1-9]|\*{2,} ?(?:FAIL|TEST FAIL)"
            r"|(?:Some |\d+ )?tests? (?:have |has )?failed\b|TESTS? FAILED|Test suite failed"
            r"|\d+ of \d+ tests? failed|(?:\d+ passed, )?[1-9]\d* failed\b)"
        ),
        r"^(?:\S+: )?Test\b.{0,80}\b(?:FAILED|failed)[.!]?$",
        r": FAILED$",
        r"\.\.\. FAILED$",
        # Lwt's own driver.
        r"^Test '[^']{1,80}' in suite '[^']{1,80}' (?:produced 'false'|raised )",
        (
            r"^Fatal error: exception (?:\S+\.)?(?:Assert_failure|Test_error|Check_error"
            r"|Alcotest)"
        ),
        words="fail|not ok|assert_failure|test_error|check_error|alcotest|in suite",
        why=("Test drivers (automake, TAP, cram, hand-written ones) name a failed test like this."),
        example="not ok 3 - connects to the server",
    ),
)
"""Failed tests. They outweigh words about the network, which tests print at will."""

COMPILE: tuple[Rule, ...] = (
    rule(
        "ocaml-error",
        _BUILD,
        (
            r"^(?:\*\*\* )?Error(?: \([^)]{1,80}\))?:(?! I/O error| Out of memory\b)"
            r"(?!.{0,300}No space left)"
        ),
        words="error",
        after=_LOCATION,
        why=(
            "The OCaml compiler, dune and Coq print the place in a source file and then the "
            "error. A compiler that got this far has a working machine under it."
        ),
        example=(
            'File "src/id.ml", line 18, characters 14-32:\n'
            "18 | let compare = Pervasives.compare\n"
            "                   ^^^^^^^^^^^^^^^^^^\n"
            "Error: Unbound module Pervasives"
        ),
        not_when=[
            (
                "errored",
                ('File "src/a.ml", line 1:\nError: I/O error: src/a.cmi: No space left on device'),
            ),
            (
                "unknown",
                'File "./Algebra.v", line 3, characters 0-4:\nError: Out of memory.',
            ),
        ],
    ),
    rule(
        "ocaml-error-words",
        _BUILD,
        r"^Error \((?:alert|warning) ",
        (
            r"^(?:\*\*\* )?Error(?: \([^)]{1,80}\))?: (?:Unbound |Syntax error|Signature"
            r" mismatch|This (?:expression|pattern|function|variant|type|module|constructor"
            r"|field)|The (?:constructor|type|value|module|record|implementation|variant"
            r'|function|files? )|Some (?:record|type|fatal)|Library "|Program \S+ not found|No'
            r" rule found for|Multiple rules|Unknown (?:field|constructor|variable|compiler"
            r"|extension)|No implementations? provided|Error (?:during linking|while running"
            r"|-enabled)|Wrong arity|Uninterpreted extension|Cannot (?:find file|safely|load"
            r" required)|Don't know how to build|Version \S+ of the dune|Tactic failure|Cannot"
            r" find a physical|The reference|Unable to unify|In environment|Files? .* (?:both"
            r" define|make inconsis)|Could not find the \.cm|Corrupted compiled interface"
            r"|Dynlink error|Unix error: E|Modules? (?:do not match|type)|No ppx driver"
            r"|Package \S+ does not"
            r" exist|Dependency cycle|Conflict between|Annotation check|Ambiguous"
            r"|Invalid (?:package|version|field"
            r"|library|module|character)|Too (?:many|few) arg|Illegal|Universe inconsistency"
            r"|Cannot find library|I don't know about|This project uses|Rule failed|Missing field"
            r"|Could not find (?:library|module|package)|(?:Type|Module|Value|Field|Unexpected)\b)"
        ),
        words="error",
        why=(
            "These are messages of the OCaml compiler, dune or Coq about source code, "
            "recognisable without their place."
        ),
        example='Error: Library "result" not found.',
    ),
    rule(
        "cc-error",
        _BUILD,
        (
            r"^(?:In file included from )?(?:<stdin>|<command-line>"
            r"|[^\s:]+\.(?:c|cc|cpp|cxx|C|h|hh|hpp|m|mm|s|S|y|l|pyx|rs|go)):\d+(?::\d+)?:"
            r" (?:fatal )?error\b(?!.{0,300}No space left)"
        ),
        (
            r"^(?:gcc|clang|cc|g\+\+|cc1): (?:fatal )?error: (?:unrecogni[sz]ed|unknown"
            r"|unsupported|no such file|invalid|no input)"
        ),
        r"^error(?:\[E\d+\])?: (?:could not compile|aborting due)",
        r"^error\[E\d+\]: ",
        r": internal compiler error: (?!Killed|Segmentation|Bus|Illegal)",
        words="error",
        why="A C, C++ or Rust compiler refuses a source file.",
        example="sdlkey_stub.c:31:28: error: 'BIGARRAY_UINT8' undeclared",
        not_when=[
            ("errored", "ccX1.s:12: Fatal error: can't write a.o: No space left on device"),
        ],
    ),
    rule(
        "link-error",
        _BUILD,
        r"undefined reference to ",
        r"^Undefined symbols? for architecture",
        r"^ld: (?:symbol\(s\)|library '.*') not found",
        r"^collect2: error: ld returned",
        (
            r"ld: (?:cannot find|library not found for|unable to find library|framework not"
            r" found) ?-?"
        ),
        r"multiple definition of ",
        r": undefined symbol: ",
        r"^ld\S*: error: undefined symbol",
        r"DSO missing from command line",
        r"relocation R_\S+ against",
        r": hidden symbol ",
        r"error adding symbols: ",
        words=(
            "undefined|ld: |ld returned|definition of|dso missing|relocation|hidden symbol"
            "|adding symbols"
        ),
        why="The linker misses or rejects a symbol or a library of the program.",
        example="/usr/bin/ld: cannot find -lgsl: No such file or directory",
    ),
)
"""Errors of compilers and linkers."""

PROOFS: tuple[Rule, ...] = (*TESTS, *COMPILE)
"""All of them."""

PROOF_IDS = tuple(proof.id for proof in PROOFS)
"""Their ids: what rules about the network yield to."""

TEST_IDS = tuple(proof.id for proof in TESTS)
"""Ids of the rules about failed tests."""
