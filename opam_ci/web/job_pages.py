"""Pages of jobs: the verdict, what speaks for and against it, attempts, phases, and the log."""

from starlette.requests import Request
from starlette.responses import Response

from opam_ci.clients.index import Index
from opam_ci.core.jobs.outcome import Errored, Failed, Skipped
from opam_ci.core.jobs.records import AttemptRecord
from opam_ci.core.pages.model import JobPage
from opam_ci.web.addresses import job_path, requested_job
from opam_ci.web.attempts import Attempts
from opam_ci.web.bounds import BoundsFiles
from opam_ci.web.head_pages import find, head_context
from opam_ci.web.job_logs import JobLogs, chosen, query_of
from opam_ci.web.problems import ALL_PULL_REQUESTS, PageError, Way
from opam_ci.web.rendering import answer
from opam_ci.web.site import Site


class JobPages:
    """The pages of jobs."""

    def __init__(self, site: Site, logs: JobLogs) -> None:
        self._site = site
        self._logs = logs
        self._attempts = Attempts(site.sources)
        self._bounds = BoundsFiles(site)

    async def page(self, request: Request) -> Response:
        """Answers with the page of a job."""
        key = await find(self._site, request)
        job = requested_job(request)
        page = await self._site.sources.ask(Index.job_page, key, job)
        common = head_context(self._site, request, key)
        if page is None:
            raise PageError(
                404,
                "No such job",
                "This head has no such job: a newer head may have other ones.",
                (Way("The jobs of this head", f"{common['base']}?q="), ALL_PULL_REQUESTS),
            )
        shown = chosen_attempt(request, page)
        offset = _evidence_offset(shown) if shown is not None else None
        path = job_path(str(common["base"]), job)
        content = self._site.render(
            "job.html",
            **common,
            details=await self._attempts.details(shown) if shown is not None else None,
            bound=await self._bounds.on_page(page.job),
            attempt_query=query_of(shown) if shown is not None else "",
            evidence_offset=offset,
            excerpts=await self._logs.excerpts(shown, offset),
            is_running=shown is not None and shown.ended_at is None,
            log_path=f"{path}/log",
            page=page,
            path=path,
            several_rounds=any(each.round > 1 for each in page.attempts),
            shown=shown,
        )
        return answer(request, content)


def chosen_attempt(request: Request, page: JobPage) -> AttemptRecord | None:
    """Returns the attempt whose log is shown: the one named, else the newest with a log.

    Raises:
        PageError: There is no such attempt.
    """
    name = request.query_params.get("attempt")
    found = chosen(page.attempts, name)
    if found is None and name is not None:
        raise PageError(
            404,
            "No such attempt",
            "This job has no such attempt: its page lists all of them.",
            (Way("The job", request.url.path), ALL_PULL_REQUESTS),
        )
    return found


def _evidence_offset(attempt: AttemptRecord) -> int | None:
    outcome = attempt.outcome
    if isinstance(outcome, Failed | Errored | Skipped) and outcome.evidence.lines:
        return outcome.evidence.lines[0].offset
    return None
