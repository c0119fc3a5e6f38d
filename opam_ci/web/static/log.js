// The log of a job: only the lines in view are in the document, and only those near it in memory.
// Text becomes text nodes alone; classes come from the server, which knows colours and nothing else.

const CHUNK = 500; // lines of a request
const CHUNKS_KEPT = 60;
const OVERSCAN = 30;
const TALLEST = 12e6; // pixels that every browser can scroll

const view = document.getElementById("log-view");
if (view) start(view);

function start(root) {
  const box = document.getElementById("log-viewer");
  const space = box.querySelector(".viewer-space");
  const list = box.querySelector(".viewer-lines");
  const state = document.getElementById("log-state");
  const address = (name, more = {}) =>
    `${root.dataset.log}/${name}?${new URLSearchParams(more)}&${root.dataset.query}`;

  const chunks = new Map(); // first line of a chunk -> its lines, or a promise of them
  let total = 0;
  let height = 18; // of a line, in pixels; measured below
  let marked = [0, -1]; // first and last line that the address names
  let evidence = 0;
  let hits = [];
  let hitSet = new Set();
  let hitAt = -1;
  let following = false;
  let frame = 0;

  root.hidden = false;
  const probe = list.appendChild(row({ number: 1, spans: [["x"]] }));
  height = probe.getBoundingClientRect().height || height;
  probe.remove();

  const rowsInView = () => Math.ceil(box.clientHeight / height);
  const scrollable = () => Math.max(space.offsetHeight - box.clientHeight, 1);
  const lastTop = () => Math.max(total - Math.floor(box.clientHeight / height), 0);

  function resize() {
    space.style.height = `${Math.max(Math.min(total * height, TALLEST), box.clientHeight)}px`;
  }

  // The first line in view, counted from 0: exact unless the log is taller than a page can be.
  function top() {
    if (total * height <= TALLEST) return Math.floor(box.scrollTop / height);
    return Math.round((box.scrollTop / scrollable()) * lastTop());
  }

  function scrollTo(number) {
    const wanted = Math.min(Math.max(number - 1, 0), lastTop());
    box.scrollTop = total * height <= TALLEST ? wanted * height : (wanted / Math.max(lastTop(), 1)) * scrollable();
    draw();
  }

  const reveal = (number) => scrollTo(number - Math.floor(rowsInView() / 3));

  async function ask(name, more) {
    const response = await fetch(address(name, more));
    const body = await response.json();
    if (!response.ok) throw new Error(body.detail);
    return body;
  }

  function tell(text) {
    state.textContent = text;
  }

  const counted = () => `${total.toLocaleString("en")} ${total === 1 ? "line" : "lines"}${following ? ", running" : ""}`;

  function grow(lines) {
    if (lines > total) {
      total = lines;
      resize();
    }
  }

  // Lines of one answer may be fewer than asked for, where they are long.
  async function load(first) {
    const lines = [];
    let from = first;
    while (from !== null && from < first + CHUNK) {
      const body = await ask("lines", { from, count: first + CHUNK - from });
      lines.push(...body.lines);
      grow(body.total);
      from = body.next;
    }
    return new Map(lines.map((line) => [line.number, line]));
  }

  function chunkOf(number) {
    const first = Math.floor((number - 1) / CHUNK) * CHUNK + 1;
    let found = chunks.get(first);
    if (found === undefined) {
      found = load(first)
        .then((lines) => {
          const known = chunks.get(first);
          // What has come as an event meanwhile is newer.
          if (known instanceof Map) for (const [at, line] of known) lines.set(at, line);
          chunks.set(first, lines);
          plan();
        })
        .catch((error) => {
          if (chunks.get(first) === found) chunks.delete(first);
          tell(error.message);
        });
      chunks.set(first, found);
      for (const key of chunks.keys()) {
        if (chunks.size <= CHUNKS_KEPT) break;
        if (key !== first) chunks.delete(key);
      }
    } else {
      chunks.delete(first);
      chunks.set(first, found); // the newest in use is last
    }
    return found;
  }

  function put(line) {
    const first = Math.floor((line.number - 1) / CHUNK) * CHUNK + 1;
    const known = chunks.get(first);
    if (known instanceof Map) known.set(line.number, line);
    else if (known === undefined && line.number === first) chunks.set(first, new Map([[first, line]]));
  }

  function row(line, number = line.number) {
    const item = document.createElement("li");
    const anchor = item.appendChild(document.createElement("a"));
    anchor.href = `#L${number}`;
    anchor.textContent = number;
    const text = item.appendChild(document.createElement("span"));
    for (const [piece, classes] of line.spans) {
      if (classes) {
        const part = text.appendChild(document.createElement("i"));
        part.className = classes;
        part.textContent = piece;
      } else text.append(piece);
    }
    if (line.cut) {
      const rest = text.appendChild(document.createElement("a"));
      rest.href = address("raw", { start: line.cut[0], end: line.cut[1] });
      rest.textContent = ` … all ${(line.cut[1] - line.cut[0]).toLocaleString("en")} bytes of this line`;
    }
    item.classList.toggle("at", number === evidence);
    item.classList.toggle("hit", (number >= marked[0] && number <= marked[1]) || hitSet.has(number));
    return item;
  }

  function draw() {
    frame = 0;
    const first = Math.max(top() - OVERSCAN, 0);
    const last = Math.min(top() + rowsInView() + OVERSCAN, total);
    const items = [];
    for (let number = first + 1; number <= last; number++) {
      const chunk = chunkOf(number);
      const line = chunk instanceof Map ? chunk.get(number) : undefined;
      items.push(row(line ?? { spans: [] }, number));
    }
    const kept = list.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    list.replaceChildren(...items);
    // Lines above the first one in view take their place above it.
    const exact = total * height <= TALLEST;
    const at = exact ? first * height : box.scrollTop - (top() - first) * height;
    list.style.transform = `translateY(${at}px)`;
    if (kept) list.querySelector(`a[href="${CSS.escape(kept)}"]`)?.focus({ preventScroll: true });
  }

  function plan() {
    if (frame === 0) frame = requestAnimationFrame(draw);
  }

  async function lineAt(offset) {
    const body = await ask("lines", { offset, count: 1 });
    grow(body.total);
    return body.lines[0]?.number ?? 1;
  }

  async function go() {
    const lines = /^#L(\d{1,9})(?:-(\d{1,9}))?$/.exec(location.hash);
    const byte = /^#b(\d{1,14})$/.exec(location.hash);
    try {
      if (lines) {
        const first = Number(lines[1]);
        marked = [first, Number(lines[2] ?? first)];
        if (first > total && !following) tell(`There is no line ${first}: the log has ${total}.`);
        reveal(first);
      } else if (byte) {
        const found = await lineAt(Number(byte[1]));
        marked = [found, found];
        reveal(found);
      } else return false;
      box.scrollIntoView({ block: "nearest" });
      plan();
      return true;
    } catch (error) {
      tell(error.message);
      return true;
    }
  }

  async function search(text, from = 1) {
    tell("Searching …");
    try {
      const body = await ask("search", { q: text, from });
      await begun; // else the place where the log begins would be shown after the hit
      hits = from === 1 ? body.hits : hits.concat(body.hits);
      hitSet = new Set(hits.map((hit) => hit.number));
      hits.more = body.next;
      hits.text = text;
      document.getElementById("log-next").hidden = hits.length === 0;
      if (hits.length === 0) tell(body.more ? "No hit so far" : "No line has this text");
      return body.hits.length > 0;
    } catch (error) {
      tell(error.message);
      return false;
    }
  }

  function showHit(index) {
    hitAt = index;
    tell(`Hit ${hitAt + 1} of ${hits.length}${hits.more ? " and more" : ""}`);
    reveal(hits[hitAt].number);
  }

  document.getElementById("log-search").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = event.target.elements.find.value;
    if (text === "") {
      hits = [];
      hitSet = new Set();
      document.getElementById("log-next").hidden = true;
      tell(counted());
      plan();
    } else if (text === hits.text && hits.length) showHit((hitAt + 1) % hits.length);
    else if (await search(text)) showHit(0);
    else plan();
  });

  document.getElementById("log-next").addEventListener("click", async () => {
    if (hitAt + 1 < hits.length) showHit(hitAt + 1);
    else if (hits.more && (await search(hits.text, hits.more))) showHit(hitAt + 1);
    else if (hits.length) showHit(0);
  });

  document.getElementById("log-end").addEventListener("click", () => scrollTo(total));

  const toEvidence = document.getElementById("log-evidence");
  toEvidence.addEventListener("click", () => reveal(evidence));

  box.addEventListener("click", (event) => {
    const anchor = event.target instanceof Element ? event.target.closest("li > a") : null;
    if (anchor === null || !event.shiftKey || marked[1] < 1) return;
    const number = Number(anchor.textContent);
    event.preventDefault();
    location.hash = `#L${Math.min(number, marked[0])}-${Math.max(number, marked[0])}`;
  });
  box.addEventListener("scroll", plan, { passive: true });
  addEventListener("resize", () => {
    resize();
    plan();
  });
  addEventListener("hashchange", go);

  function follow(offset) {
    following = true;
    const source = new EventSource(address("events", { offset }));
    source.addEventListener("lines", (event) => {
      const atEnd = top() >= lastTop() - 2;
      for (const line of JSON.parse(event.data).lines) {
        put(line);
        grow(line.number);
      }
      if (hits.length === 0) tell(counted());
      if (atEnd) scrollTo(total);
      else plan();
    });
    source.addEventListener("end", (event) => {
      source.close();
      following = false;
      const { verdict, total: lines } = JSON.parse(event.data);
      grow(lines);
      tell(verdict ? `Ended: ${verdict}` : "Ended");
      document.dispatchEvent(new Event("refresh"));
      plan();
    });
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) tell("The log cannot be followed: reload the page.");
      else tell("The server does not answer: trying again …");
    });
    source.addEventListener("open", () => tell(counted()));
  }

  const begun = (async () => {
    try {
      const body = await ask("lines", { from: 1, count: CHUNK });
      if (body.next === null || body.lines.length === CHUNK)
        chunks.set(1, new Map(body.lines.map((line) => [line.number, line])));
      grow(body.total);
      tell(counted());
      resize();
      if (root.dataset.evidence !== undefined) {
        evidence = await lineAt(Number(root.dataset.evidence));
        toEvidence.hidden = false;
      }
      if (!(await go())) {
        if (evidence) reveal(evidence);
        else if (!body.closed) scrollTo(total);
      }
      if (root.dataset.running !== undefined && !body.closed) {
        // From what is here on: of a log that is longer, from its last lines.
        const last = body.next === null ? body : await ask("lines", { from: Math.max(body.total, 1), count: CHUNK });
        follow(last.events_from);
      }
      draw();
    } catch (error) {
      tell(error.message);
    }
  })();
}
