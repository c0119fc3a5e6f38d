"""`opam-ci classify --replay --wrong-verdicts`: reports of maintainers under the current rules."""

import asyncio
from collections import Counter
from collections.abc import Iterator

from opam_ci.app.settings import Settings
from opam_ci.cli.output.json_lines import print_line
from opam_ci.cli.output.tables import print_text
from opam_ci.cli.selection.operate import opened_index
from opam_ci.clients.index import Index, Place
from opam_ci.clients.judge import judged
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.classify.replay import replay
from opam_ci.core.jobs.outcome import label
from opam_ci.core.pages.model import WrongVerdict

_PAGE = 500


def replay_reports(*, as_json: bool) -> int:
    """Judges the kept logs again and prints what is reported of each, then counts.

    Returns:
        How many verdicts are not what they should be.

    Raises:
        UsageError: There is no index.
        InfrastructureError: The index or the store cannot be read.
    """
    settings = Settings()
    store = ArtifactStore.open(settings.store_url)
    with opened_index(settings) as index:
        counts = asyncio.run(_replay_all(store, _reports(index), as_json=as_json))
    if as_json:
        print_line({"event": "summary", **counts})
    else:
        print_text(
            f"{counts['reports']} reports: {counts['as_expected']} as expected now, "
            f"{counts['wrong']} still wrong, {counts['without_facts']} without a log or facts"
        )
    return counts["wrong"]


def _reports(index: Index) -> Iterator[WrongVerdict]:
    after: str | None = None
    while True:
        items, after = index.wrong_verdicts(Place(limit=_PAGE, after=after))
        yield from items
        if after is None:
            return


async def _replay_all(
    store: ArtifactStore, reports: Iterator[WrongVerdict], *, as_json: bool
) -> Counter[str]:
    counts: Counter[str] = Counter(reports=0, as_expected=0, wrong=0, without_facts=0)
    for report in reports:
        counts["reports"] += 1
        now = await _verdict_now(store, report)
        if now is None:
            counts["without_facts"] += 1
        else:
            counts["as_expected" if now == report.expected else "wrong"] += 1
        _print(report, now, as_json=as_json)
    return counts


async def _verdict_now(store: ArtifactStore, report: WrongVerdict) -> str | None:
    """Returns the verdict by the current rules, None if the log or the facts are missing."""
    if report.log_key is None:
        return None
    kept = await judged.load(store, report.log_key)
    if kept is None:
        return None
    texts = await judged.phase_texts(store, report.log_key, kept.facts)
    return label(replay(kept, texts).now)


def _print(report: WrongVerdict, now: str | None, *, as_json: bool) -> None:
    attempt = report.attempt
    before = label(attempt.outcome) if attempt.outcome is not None else ""
    if as_json:
        print_line({
            "event": "report",
            "repository": attempt.revision.repository,
            "target": attempt.revision.target,
            "head": attempt.revision.head,
            "job": attempt.job.id,
            "round": attempt.round,
            "attempt": attempt.number,
            "log": report.log_key,
            "login": report.login,
            "at": report.at.isoformat(),
            "comment": report.comment,
            "before": before,
            "expected": report.expected,
            "now": now,
        })  # fmt: skip
        return
    mark = "as expected" if now == report.expected else "still wrong"
    shown = f"{now}: {mark}" if now is not None else "not judged: no log or facts are stored"
    print_text(
        f"{attempt.revision.repository} {attempt.revision.target} {attempt.job.id} "
        f"{attempt.round}-{attempt.number}: was {before}, {report.login} expects "
        f"{report.expected}; now {shown}"
    )
    if report.comment:
        print_text(f"    {' '.join(report.comment.split())}")
