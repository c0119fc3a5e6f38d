"""The entry point of the command: each error is one line and an exit code."""

import logging
import os
import sys

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from opam_ci import __version__
from opam_ci.cli.author.bounds import bounds
from opam_ci.cli.author.build import build
from opam_ci.cli.author.check import check
from opam_ci.cli.author.lint import lint
from opam_ci.cli.author.log import log
from opam_ci.cli.author.platforms import platforms
from opam_ci.cli.author.revdeps import revdeps
from opam_ci.cli.author.status import status
from opam_ci.cli.developer.analyse import analyse
from opam_ci.cli.developer.classify import classify
from opam_ci.cli.developer.effect import effect
from opam_ci.cli.operator.cache import cache
from opam_ci.cli.operator.down import down
from opam_ci.cli.operator.github import app as github_app
from opam_ci.cli.operator.health import health
from opam_ci.cli.operator.incidents import app as incidents
from opam_ci.cli.operator.overview import authors, errors, jobs, workers
from opam_ci.cli.operator.pages import pages
from opam_ci.cli.operator.prune import prune
from opam_ci.cli.operator.restart import cancel, restart
from opam_ci.cli.operator.serve import serve
from opam_ci.cli.operator.up import up
from opam_ci.cli.operator.waivers import app as waivers
from opam_ci.cli.operator.work import worker
from opam_ci.cli.output.tables import note
from opam_ci.cli.selection.server import choose_server
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError, SubmissionError
from opam_ci.core.text.status import problems

app = typer.Typer(
    name="opam-ci",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The CI of opam-repository: it distinguishes a broken package from a broken CI.",
    epilog="Start with `opam-ci up`. Exit codes: 0 passed, 1 package failure, 2 usage, "
    "3 internal CI error.",
    callback=choose_server,
)
for command in (
    up,
    down,
    check,
    build,
    bounds,
    revdeps,
    analyse,
    effect,
    lint,
    classify,
    platforms,
    status,
    errors,
    health,
    jobs,
    log,
    restart,
    cancel,
    workers,
    authors,
    worker,
    serve,
    pages,
    cache,
    prune,
):
    app.command()(command)
app.add_typer(incidents)
app.add_typer(waivers)
app.add_typer(github_app)


def main() -> None:
    """Runs the command line, and ends the process with the documented exit code.

    The interpreter is not finalized: native threads of Temporal's library may still try to
    enter it, and then the process ends by a signal instead (seen in 1 of 20 runs).
    """
    code = run(sys.argv[1:])
    logging.shutdown()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        # The reader has closed the pipe, as with `| head`.
        code = code or 0
    os._exit(code)


def run(arguments: list[str]) -> int:  # noqa: C901, PLR0911  one return for each kind of error
    """Runs a command line and returns its exit code."""
    logging.getLogger("temporalio").setLevel(logging.ERROR)
    if arguments in (["--version"], ["-V"]):
        print(f"opam-ci {__version__}")
        return 0
    try:
        code = app(arguments or ["--help"], prog_name="opam-ci", standalone_mode=False)
    except typer.Exit as exit_:
        return exit_.exit_code
    except typer.TyperException as error:
        problem = error.format_message().replace("Value error, ", "").rstrip(".")
        return _fail(f"{problem}; see `opam-ci --help`", 2)
    except (KeyboardInterrupt, typer.Abort):
        print("opam-ci: interrupted", file=sys.stderr)
        return 130
    except UsageError as error:
        return _fail(error, 2)
    except SettingsError as error:
        return _fail(f"settings: {error}", 2)
    except ValidationError as error:
        # Settings from the environment; all other input is validated where it is read.
        return _fail(f"settings: {problems(error)}", 2)
    except SubmissionError as error:
        return _fail(error, 1)
    except InfrastructureError as error:
        return _fail(f"internal CI error ({error.cause}): {error}", 3)
    except Exception as error:  # the boundary: a bug of ours is not a package failure
        if os.environ.get("OPAM_CI_TRACEBACK"):
            raise
        bug = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return _fail(f"internal error, a bug of ours: {bug} (OPAM_CI_TRACEBACK=1 shows where)", 3)
    return code if isinstance(code, int) else 0


def _fail(error: object, code: int) -> int:
    note(f"opam-ci: {error}")
    return code


if __name__ == "__main__":
    main()
