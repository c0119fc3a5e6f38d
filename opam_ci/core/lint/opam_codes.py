"""opam's lint codes: the fields that they are about, and how to fix their messages.

The codes are those of opam 2.3 to 2.5 (opamFileTools.ml, `t_lint`).
"""

from collections.abc import Mapping
from typing import Final

OPAM_VERSION: Final = "2.3.0"
"""The version of opam whose lint authors are judged by, on every machine: that of Debian 13."""

_SCRIPTS: Final = ("build", "install", "remove", "run-test", "build-test", "build-doc")
_FORMULAS: Final = ("depends", "depopts", "conflicts")
_FILTERED: Final = (*_FORMULAS, "available", "depexts", *_SCRIPTS)
_URLS: Final = ("url", "dev-repo", "extra-source", "pin-depends")

#: The fields and sections in which to search for the text that a message quotes. Codes for a
#: missing field have no place.
FIELDS: Final[Mapping[int, tuple[str, ...]]] = {
    20: ("opam-version",),
    21: ("opam-version",),
    22: ("maintainer", "homepage", "authors", "author", "license", "doc", "tags", "bug-reports"),
    24: ("maintainer",),
    26: ("remove",),
    28: ("flags", "tags"),
    29: _FORMULAS,
    31: ("depopts", "depends"),
    32: ("ocaml-version", *_FILTERED),
    33: ("os",),
    34: ("available",),
    39: _SCRIPTS,
    41: (*_SCRIPTS, "messages", "post-messages", "features", "available", "depexts"),
    42: ("dev-repo",),
    43: ("conflicts",),
    44: ("flags",),
    45: (*_SCRIPTS, "messages", "post-messages", *_FILTERED),
    46: ("flags", "tags"),
    47: ("synopsis",),
    48: ("build-test", "build-doc"),
    49: _URLS,
    50: ("depopts", "depends"),
    51: ("depends", "depopts"),
    52: ("flags",),
    54: ("depexts",),
    55: _FILTERED,
    57: ("synopsis",),
    58: _FILTERED,
    59: ("url",),
    60: ("url",),
    61: ("run-test",),
    62: ("license",),
    65: _URLS,
    66: (*_FORMULAS, "features"),
    67: ("url",),
    69: (*_SCRIPTS, "messages", "post-messages"),
    70: ("extra-files",),
    71: ("url",),
    72: ("extra-source",),
    73: ("extra-files",),
    74: ("pin-depends",),
}

#: How to fix what a message reports, where the message itself has no advice.
ADVICE: Final[Mapping[int, str]] = {
    3: (
        "opam ignores the field because its value has the wrong form. The manual lists the"
        " form of every field: https://opam.ocaml.org/doc/Manual.html#opam"
    ),
    22: "Remove the empty field, or fill it in.",
    23: 'Add maintainer: "Name <address>".',
    25: 'Add authors: ["Name <address>"].',
    26: "Move what installs files from `build:` to `install:`, so that opam can track it.",
    28: "Check the spelling; the manual lists the flags that exist.",
    35: "Add homepage: with the URL of the project.",
    36: "Add bug-reports: with the URL of the issue tracker.",
    37: 'Add dev-repo: "git+https://…" with the URL that `git clone` takes.',
    39: "Write `make` without quotes: opam then uses the make of the platform.",
    41: (
        "Add the packages to `depends:` or `depopts:`, or guard the argument with"
        " {package:installed}."
    ),
    42: "Write the URL with its version control system in front, such as git+https://….",
    45: "Write %{variable}%: the closing `}%` is missing.",
    46: "A conf package only checks the system; remove what downloads or installs.",
    47: 'Write it like a title: synopsis: "Parser for something".',
    49: "Write the URL with its version control system in front, such as git+https://….",
    54: "Write one string for each system package: two names in one string are not a package.",
    55: "opam never uses this spelling, so the condition would never be true.",
    57: "Add synopsis: with one line that describes the purpose of the package.",
    59: 'Add checksum: "sha256=…" with the output of `sha256sum ARCHIVE`.',
    62: (
        "Use an expression of SPDX identifiers, such as MIT, LGPL-2.1-or-later WITH"
        " OCaml-LGPL-linking-exception, or ISC AND BSD-3-Clause; a licence without"
        " identifier is LicenseRef-name."
    ),
    67: "A version control URL is identified by its commit; remove the checksum.",
    68: "Add license: with an SPDX identifier.",
}
