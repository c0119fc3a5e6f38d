// All pages: keys, filters, copying, and the newest state every five seconds.
// Nothing here makes markup from text: the page must work without it, and hostile text stays text.

const POLL_MS = 5000;
const DIALOG = document.getElementById("keys");

function rows() {
  return [...document.querySelectorAll("main [data-row]")].filter((row) => row.offsetParent !== null);
}

function move(step) {
  const all = rows();
  if (all.length === 0) return;
  const at = all.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + step, 0), all.length - 1);
  all[next].focus();
  all[next].scrollIntoView({ block: "nearest" });
}

function isTyping(target) {
  return target instanceof HTMLElement && (target.matches("input, textarea, select") || target.isContentEditable);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (isTyping(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (DIALOG?.open) return;
  const filter = document.querySelector("main input[type=search]");
  if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "/" && filter) filter.focus();
  else if (event.key === "?") DIALOG?.showModal();
  else return;
  event.preventDefault();
});

document.addEventListener("click", async (event) => {
  const button = event.target instanceof Element ? event.target.closest("button[data-copy], button[data-keys]") : null;
  if (button === null) return;
  if (button.hasAttribute("data-keys")) {
    DIALOG.showModal();
    return;
  }
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(source);
    button.textContent = "Selected: press Ctrl+C";
  }
});

// The newest state. Parsed by the browser as a document without scripts (XMLHttpRequest), and not
// from a string; what is open, focused and scrolled stays so.
const live = () => document.querySelector("main[data-live]") !== null;
let tag = document.querySelector("main[data-live]")?.dataset.live ?? null;
let timer = 0;

function place(element) {
  if (element === null || !document.querySelector("main").contains(element)) return null;
  if (element.id) return (root) => root.querySelector(`#${CSS.escape(element.id)}`);
  const href = element.getAttribute("href");
  return href ? (root) => root.querySelector(`a[href="${CSS.escape(href)}"]`) : null;
}

function replace(page) {
  const old = document.querySelector("main");
  const fresh = page.querySelector("main");
  if (fresh === null) return;
  const find = place(document.activeElement);
  const known = new Set([...old.querySelectorAll("[id]")].map((each) => each.id));
  for (const details of old.querySelectorAll("details[id]")) {
    const same = fresh.querySelector(`#${CSS.escape(details.id)}`);
    if (same) same.open = details.open;
  }
  for (const each of fresh.querySelectorAll(".card[id]")) each.classList.toggle("is-new", !known.has(each.id));
  // The viewer of a log stays as it is, with all before and after it renewed.
  const kept = old.querySelector(":scope > [data-keep]");
  const same = fresh.querySelector(":scope > [data-keep]");
  if (kept && same && kept.dataset.keep === same.dataset.keep) {
    const all = [...document.adoptNode(fresh).childNodes];
    const at = all.indexOf(same);
    for (const each of [...old.childNodes]) if (each !== kept) each.remove();
    kept.before(...all.slice(0, at));
    kept.after(...all.slice(at + 1));
  } else if (kept || same) {
    location.reload();
    return;
  } else old.replaceChildren(...document.adoptNode(fresh).childNodes);
  document.title = page.title;
  find?.(old)?.focus({ preventScroll: true });
}

function poll() {
  timer = 0;
  if (!live()) return;
  if (document.hidden || DIALOG?.open || isTyping(document.activeElement)) return schedule();
  refresh();
}

function refresh() {
  const request = new XMLHttpRequest();
  request.open("GET", location.pathname + location.search);
  request.responseType = "document";
  if (tag) request.setRequestHeader("If-None-Match", tag);
  const done = (isAnswered) => {
    const stale = document.getElementById("stale");
    if (stale) stale.hidden = isAnswered;
    schedule();
  };
  request.onload = () => {
    if (request.status === 200 && request.response) {
      tag = request.getResponseHeader("ETag");
      replace(request.response);
    }
    done(request.status === 200 || request.status === 304);
  };
  request.onerror = () => done(false);
  request.send();
}

function schedule() {
  if (timer === 0 && !document.hidden && live()) timer = setTimeout(poll, POLL_MS);
}

document.addEventListener("refresh", refresh);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && timer === 0) poll();
});
schedule();
