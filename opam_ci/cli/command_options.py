"""Options that several commands have in common."""

from pathlib import Path
from typing import Annotated

import typer

from opam_ci.core.job import JobKind
from opam_ci.core.outcome import Cause

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only print what it would do.")]
LimitOption = Annotated[int, typer.Option(help="How many to list.", min=1, max=10_000)]

TemporalOption = Annotated[
    str | None, typer.Option(help="Address of a Temporal server; default: the embedded one.")
]
ServerOption = Annotated[
    str | None,
    typer.Option("--temporal", help="Address of the Temporal server [env: OPAM_CI_TEMPORAL]."),
]

PlatformOption = Annotated[str | None, typer.Option(help="Only on this platform.")]
PackageOption = Annotated[str | None, typer.Option(help="Only this package, or version of it.")]
KindOption = Annotated[
    JobKind | None,
    typer.Option(metavar="KIND", help="Only this kind of jobs, such as build, test, revdep."),
]
RevdepOption = Annotated[str | None, typer.Option(help="Only on this reverse dependency.")]
JobOption = Annotated[str | None, typer.Option("--job", help="Only the job with this id, in full.")]
CauseOption = Annotated[
    Cause | None,
    typer.Option(metavar="CAUSE", help="Only errors with this cause, such as disk_full."),
]
OldHeadOption = Annotated[
    str | None, typer.Option(help="At an older head: its hash, or seven characters of it.")
]

PlatformFileOption = Annotated[
    Path | None,
    typer.Option(
        "--platforms",
        metavar="FILE",
        help="TOML file of platforms and pools [env: OPAM_CI_PLATFORMS].",
    ),
]
LintOnlyOption = Annotated[bool, typer.Option(help="Stop after analysis and lint.")]
MirrorOption = Annotated[
    list[str] | None,
    typer.Option(help="URL of an opam archive mirror for sources; may be repeated."),
]
AttemptsOption = Annotated[
    int, typer.Option(help="Attempts of a job that meets a CI fault.", min=1, max=20)
]
RetryAfterOption = Annotated[
    float,
    typer.Option(help="Seconds before the first retry; tripled each time.", min=0.1, max=86400),
]
