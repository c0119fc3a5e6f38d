"""Chromium for `bench/pages.py`: when pages can be used, and what the tab costs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
"""Debian's."""

THROTTLE = 4
_PATIENCE_MS = 5000
_MB = 1_000_000

_USABLE = """
window.usableAt = new Promise((resolve) => addEventListener("load", () =>
  requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now())))));
"""
"""When the page is loaded, its scripts have run, and the first frame after that is shown.

A promise, as the next two: a condition that playwright polls is an `eval`, which pages forbid.
"""

_FIRST_PAINT = """() => new Promise((resolve) => {
  new PerformanceObserver((list) => {
    const [found] = list.getEntriesByName("first-contentful-paint");
    if (found) resolve(found.startTime);
  }).observe({ type: "paint", buffered: true });
})"""
_GO_TO_LINE = """([number, limit]) => new Promise((resolve) => {
  const begun = performance.now();
  location.hash = `#L${number}`;
  const look = () => {
    const took = performance.now() - begun;
    const shown = [...document.querySelectorAll(".log a")].some(
      (each) => each.textContent.trim() === String(number));
    if (shown || took > limit) resolve(shown ? took : Infinity);
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})"""

_FOLLOW = """([path, since]) => {
  window.latencies = [];
  new EventSource(path).addEventListener("lines", (event) => {
    const now = Date.now();
    for (const [, at] of event.data.matchAll(/at=(\\d+)/g)) {
      if (Number(at) >= since) window.latencies.push(now - Number(at));
    }
  });
}"""


@dataclass
class Tab:
    """A tab of Chromium.

    Attributes:
        page: The page in it.
    """

    page: Page

    def session(self) -> Any:
        """Opens a session of the DevTools protocol."""
        return self.page.context.new_cdp_session(self.page)

    def throttle(self) -> None:
        """Slows the processor down."""
        self.session().send("Emulation.setCPUThrottlingRate", {"rate": THROTTLE})

    def usable_ms(self, url: str) -> float:
        """Loads a page; returns when it could be used."""
        self.page.goto(url)
        return float(self.page.evaluate("window.usableAt"))

    def first_paint_ms(self, url: str) -> float:
        """Loads a page; returns when its first content was shown."""
        self.page.goto(url)
        return float(self.page.evaluate(_FIRST_PAINT))

    def line_ms(self, number: int) -> float:
        """Goes to a line of the log that is shown; returns how long that took, if it did."""
        return float(self.page.evaluate(_GO_TO_LINE, [number, _PATIENCE_MS]))

    def heap_mb(self) -> float:
        """Returns what the scripts of the page hold."""
        session = self.session()
        session.send("HeapProfiler.collectGarbage")
        session.send("Performance.enable")
        found = session.send("Performance.getMetrics")["metrics"]
        return (
            float(next(each["value"] for each in found if each["name"] == "JSHeapUsedSize")) / _MB
        )

    def follow(self, path: str, since: float) -> None:
        """Follows a log from the page that is shown, and notes the age of lines written since."""
        self.page.evaluate(_FOLLOW, [path, since])

    def latencies(self) -> list[float]:
        """Returns how old each of these lines was when it came, in ms."""
        return [float(each) for each in self.page.evaluate("window.latencies")]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Runs Chromium for the time of a block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def tab(browser: Browser) -> Iterator[Tab]:
    """Opens a tab with an empty cache."""
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(_USABLE)
    try:
        yield Tab(page)
    finally:
        context.close()
