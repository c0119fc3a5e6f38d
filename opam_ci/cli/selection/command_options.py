"""Options that several commands have: `from opam_ci.cli import command_options as opt`."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from opam_ci.core.jobs import job, outcome

Json = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what it would do.")]
Limit = Annotated[int, typer.Option(help="How many to list.", min=1, max=10_000)]

Clone = Annotated[Path, typer.Option(help="Local clone of opam-repository, bare or not.")]
Number = Annotated[int | None, typer.Option(min=1, help="Number of a pull request.")]
Branch = Annotated[str | None, typer.Option(help="A branch or commit of the clone, as the head.")]
BaseBranch = Annotated[str, typer.Option(help="The branch or commit into which it is merged.")]

Temporal = Annotated[
    str | None, typer.Option(help="Address of a Temporal server; default: the embedded one.")
]
Server = Annotated[
    str | None,
    typer.Option(
        "--temporal",
        help="Address of the Temporal server [env: OPAM_CI_TEMPORAL, TEMPORAL_ADDRESS].",
    ),
]

Platform = Annotated[str | None, typer.Option(help="Only on this platform.")]
Package = Annotated[str | None, typer.Option(help="Only this package, or version of it.")]
Kind = Annotated[
    job.JobKind | None,
    typer.Option(metavar="KIND", help="Only this kind of jobs, such as build, test, revdep."),
]
Revdep = Annotated[str | None, typer.Option(help="Only on this reverse dependency.")]
Job = Annotated[str | None, typer.Option("--job", help="Only the job with this id, in full.")]
Cause = Annotated[
    outcome.Cause | None,
    typer.Option(metavar="CAUSE", help="Only errors with this cause, such as disk_full."),
]
Reason = Annotated[
    outcome.FailureReason | None,
    typer.Option(metavar="REASON", help="Only failures for this reason, such as build."),
]
OldHead = Annotated[
    str | None, typer.Option(help="At an older head: its hash, or seven characters of it.")
]

PlatformFile = Annotated[
    Path | None,
    typer.Option(
        "--platforms",
        metavar="FILE",
        help="TOML file of platforms and pools [env: OPAM_CI_PLATFORMS].",
    ),
]


def _without_password(urls: list[str] | None) -> list[str] | None:
    if any("@" in urlsplit(url).netloc for url in urls or ()):
        raise typer.BadParameter("a URL with a user name or a password, which logs would show")
    return urls


LintOnly = Annotated[bool, typer.Option(help="Stop after analysis and lint.")]
Mirror = Annotated[
    list[str] | None,
    typer.Option(
        help="URL of an opam archive mirror for sources; may be repeated.",
        callback=_without_password,
    ),
]
Attempts = Annotated[
    int, typer.Option(help="Attempts of a job that meets a CI fault.", min=1, max=20)
]
RetryAfter = Annotated[
    float,
    typer.Option(help="Seconds before the first retry; tripled each time.", min=0.1, max=86400),
]
