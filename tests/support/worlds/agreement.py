"""Whether pages agree with GitHub: what both show of the heads of a pull request, again and again.

They read different records: a page is made from the index, a status by the workflow, and each is
written when it can be. So they may differ for a moment, and the comparison is:

- The workflow's own statuses of its head, those that it would post now (query `to_post`), are what
  everything must show: the JSON API, the page in a browser, and GitHub. Of a head that is tested
  no more it is what GitHub was sent last.
- GitHub may lag in one thing: among pending states a text alone is debounced.
- A difference may not last: one in which nothing moves on any side fails the test, and where the
  test says that all is quiet, so does any difference.
- The sentence of a page, its state and that of its main context are read at once, and always agree.
- The states of a head, and the texts of all but pending ones, are on the page those that GitHub was
  sent, in the same order: none is invented, and none comes back. What is decided before GitHub was
  sent anything was pending on the page alone.
"""

import asyncio
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx
from playwright.async_api import Page
from temporalio.client import WorkflowHandle

from opam_ci.core.github.messages import PostContent
from opam_ci.core.github.status import DEFAULT_CONTEXTS, About
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.support.fakes.github import FakeGitHub

PATIENCE = 90
"""Seconds that a difference may last in which nothing moves; usually it is some tenths of one, and
five with a page that renews itself."""

INTERVAL = 0.5
"""Seconds between two samples."""

MAIN = next(each.name for each in DEFAULT_CONTEXTS if each.about is About.OVERALL)
"""Name of the context about which the sentence of a page is."""

Shown = dict[str, tuple[str, str]]
"""State and text by context."""

_READ = """() => {
  const text = (element) => {
    const copy = element.cloneNode(true);
    copy.querySelectorAll('.glyph').forEach((glyph) => glyph.remove());
    return copy.textContent.trim();
  };
  const head = document.querySelector('.facts code');
  const sentence = document.querySelector('.verdict h1');
  const contexts = document.querySelectorAll('section[aria-labelledby=contexts] li');
  if (head === null || sentence === null) return null;
  return {
    head: head.textContent,
    sentence: text(sentence),
    state: sentence.parentElement.className.replace('verdict', '').trim(),
    contexts: [...contexts].map((item) => ({
      name: item.querySelector('b').textContent,
      state: text(item.querySelector('.s')),
      description: text(item).slice(text(item).indexOf(': ') + 2),
    })),
  };
}"""


@dataclass(frozen=True)
class Views:
    """What all sides show of one head.

    Attributes:
        github: What GitHub was sent last.
        api: What the JSON API has.
        page: What the browser shows; None if it shows another head.
        workflow: What the workflow would post; None if it tests another head.
    """

    github: Shown
    api: Shown
    page: Shown | None
    workflow: Shown | None

    @property
    def differences(self) -> list[str]:
        """What does not agree."""
        wanted = self.github if self.workflow is None else self.workflow
        sides = {"API": self.api, "page": self.page}
        found = [
            f"{name} has {side}, and not {wanted}"
            for name, side in sides.items()
            if side is not None and side != wanted
        ]
        if not _is_debounced(self.github, wanted):
            found.append(f"GitHub has {self.github}, and not {wanted}")
        return found


def _is_debounced(posted: Shown, wanted: Shown) -> bool:
    """Whether all that GitHub lacks are texts of pending states, or nothing."""
    return posted.keys() == wanted.keys() and all(
        posted[name] == (state, text) or posted[name][0] == state == "pending"
        for name, (state, text) in wanted.items()
    )


class Agreement:
    """Compares all sides until it is cancelled: `run`.

    Attributes:
        handle: Of the workflow of the pull request.
        station: Of the story; samples are counted by it.
        heads: Those that are compared, the newest last.
        views: The last of each head.
        samples: Comparisons by station.
        equal: Those of them without a difference.
        is_quiet: Whether nothing happens: then no difference is right.
    """

    def __init__(
        self, fake: FakeGitHub, handle: WorkflowHandle[Any, Any], origin: str, page: Page
    ) -> None:
        self.station = ""
        self.heads: list[str] = []
        self.views: dict[str, Views] = {}
        self.samples: Counter[str] = Counter()
        self.equal: Counter[str] = Counter()
        self.is_quiet = False
        self._fake = fake
        self.handle = handle
        self._page = page
        self._http = httpx.AsyncClient(base_url=origin, trust_env=False, timeout=60)
        self._since: dict[str, float] = {}
        self._as_of: dict[str, datetime] = {}
        self._shown: defaultdict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)

    async def run(self) -> None:
        """Takes samples.

        Raises:
            AssertionError: Something does not agree.
        """
        async with self._http:
            while True:
                await self._sample()
                await asyncio.sleep(INTERVAL)

    def check_order(self) -> None:
        """Fails if a page or the API showed a state or a verdict that GitHub was not sent then."""
        assert self._shown
        for (side, head, context), shown in self._shown.items():
            sent = self._fake.statuses[head, context]
            posted = _verdicts((each["state"], each["description"]) for each in sent)
            mine = _verdicts(itertools.dropwhile(lambda pair: pair[0] == "pending", shown))
            assert _is_within(mine, posted), f"{side}, {head[:8]} {context}: {mine}, not {posted}"

    async def _sample(self) -> None:
        quiet = self.is_quiet
        statuses = await self._workflow()
        page = await self._page_views()
        for head in self.heads:
            api = await self._api(head)
            if api is None:
                # Not in the index yet.
                assert head not in self.views
                continue
            views = Views(
                github=self._github(head),
                api=api,
                page=page.get(head[:8]),
                workflow=statuses.get(head),
            )
            self._compare(head, views, quiet=quiet and self.is_quiet)

    def _compare(self, head: str, views: Views, *, quiet: bool) -> None:
        if views != self.views.get(head):
            self._since[head] = time.monotonic()
        self.views[head] = views
        self.samples[self.station] += 1
        for side, shown in (("API", views.api), ("page", views.page)):
            for context, pair in (shown or {}).items():
                self._shown[side, head, context].append(pair)
        differences = views.differences
        if not differences:
            self.equal[self.station] += 1
            return
        lasts = time.monotonic() - self._since[head]
        if quiet or lasts > PATIENCE:
            raise AssertionError(
                f"{self.station}, {head[:8]}, unchanged for {lasts:.0f} s: {'; '.join(differences)}"
            )

    def _github(self, head: str) -> Shown:
        return {
            context: (all_of[-1]["state"], all_of[-1]["description"])
            for (sha, context), all_of in list(self._fake.statuses.items())
            if sha == head and all_of
        }

    async def _workflow(self) -> dict[str, Shown]:
        content: PostContent = await self.handle.query(
            PullRequestWorkflow.to_post, rpc_timeout=timedelta(seconds=60)
        )
        found: defaultdict[str, Shown] = defaultdict(dict)
        for each in content.statuses:
            found[each.sha][each.context] = (each.state.value, each.description)
        return dict(found)

    async def _api(self, head: str) -> Shown | None:
        response = await self._http.get(f"/api/v1/{self._fake.full_name}/commit/{head}")
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        found = response.raise_for_status().json()
        as_of = datetime.fromisoformat(found["as_of"])
        assert as_of >= self._as_of.get(head, as_of), f"{head[:8]} went back to {as_of}"
        self._as_of[head] = as_of
        return _read(found)

    async def _page_views(self) -> dict[str, Shown]:
        found = await self._page.evaluate(_READ)
        return {} if found is None else {found["head"]: _read(found)}


def _read(found: dict[str, Any]) -> Shown:
    """Reads what a page or the API has of a head; its sentence is that of the main context."""
    shown = {each["name"]: (each["state"], each["description"]) for each in found["contexts"]}
    assert shown[MAIN] == (found["state"], found["sentence"])
    return shown


def _verdicts(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns states with their texts, those of pending ones left out, each change once."""
    plain = ((state, "" if state == "pending" else text) for state, text in pairs)
    return [pair for pair, _ in itertools.groupby(plain)]


def _is_within(some: Sequence[tuple[str, str]], whole: Sequence[tuple[str, str]]) -> bool:
    """Whether some follow each other in a whole in the same order."""
    rest = iter(whole)
    return all(each in rest for each in some)
