// A job's output as it comes, its last lines first. More of it comes when it is asked for; the whole is a link away.

import { h } from "./dom.js";
import { address, get, login } from "./api.js";
import { say } from "./orders.js";
import { bytes, count, number } from "./format.js";
import { LogView } from "./log_view.js";
import { Terminal } from "./terminal.js";

const FIRST = 1000; // lines that are fetched first,
const TAIL = 1 << 20; // or bytes, where lines are long
const EARLIER = 2 << 20; // bytes that are fetched at once of what came before
const TYPING = 150;
const PATIENCE = 60_000;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 8000;

export class Log {
  constructor(id) {
    this.id = id;
    this.stream = "stdout";
    this.terminal = new Terminal();
    this.view = new LogView(() => this.counted());
    this.how = h("p", { class: "how", role: "status" });
    this.whole = h("a", null, "The whole log");
    this.switches = ["stdout", "stderr"].map((name) =>
      h(
        "button",
        { type: "button", "aria-pressed": String(name === this.stream), "data-stream": name },
        name,
      ),
    );
    this.wrap = h("button", { type: "button", "aria-pressed": "true" }, "Wrap lines");
    this.more = h("button", { type: "button", hidden: true }, "Show earlier");
    this.query = h("input", { type: "search", name: "find", placeholder: "find", autocomplete: "off", "aria-label": "Find" });
    this.matches = h("span", { class: "matches", role: "status" });
    this.backward = h("button", { type: "button", disabled: true }, "Previous");
    this.forward = h("button", { type: "submit", disabled: true }, "Next");
    this.finder = h(
      "form",
      { class: "finder", role: "search", "aria-label": "Output" },
      this.query,
      this.backward,
      this.forward,
      this.matches,
    );
    this.element = h(
      "section",
      { "aria-labelledby": "log-heading", "data-own": true },
      h("h2", { id: "log-heading" }, "Output"),
      h(
        "div",
        { class: "buttons" },
        h("span", { role: "group", "aria-label": "Which output" }, this.switches),
        this.wrap,
        this.whole,
        this.finder,
      ),
      h("p", { class: "more" }, this.more),
      this.view.element,
      this.how,
    );
    for (const one of this.switches) one.addEventListener("click", () => this.chose(one.dataset.stream));
    this.wrap.addEventListener("click", () => {
      const wraps = this.view.element.classList.toggle("unwrapped");
      this.wrap.setAttribute("aria-pressed", String(!wraps));
      this.view.toEnd();
    });
    this.more.addEventListener("click", () => this.earlier());
    this.query.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.find(), TYPING);
    });
    this.query.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !event.shiftKey) return;
      event.preventDefault();
      this.previous();
    });
    this.finder.addEventListener("submit", (event) => {
      event.preventDefault();
      this.next();
    });
    this.backward.addEventListener("click", () => this.previous());
    this.look = () => (document.hidden ? this.disconnect() : this.connect());
    document.addEventListener("visibilitychange", this.look);
    this.pieces = [];
    this.frame = 0;
    this.turn = 0; // of the streams that were chosen
    this.over = false;
  }

  /** The first stream that is shown; where it holds nothing in the end, the other one. */
  begin(stream) {
    this.chosen = false;
    this.fallsBack = stream === "stderr";
    this.choose(stream);
  }

  /** This stream, unless the person has chosen one. */
  prefer(stream) {
    if (this.chosen || this.stream === stream) return;
    this.chosen = true; // once
    this.fallsBack = true;
    this.choose(stream);
  }

  /** The person has. */
  chose(stream) {
    this.chosen = true;
    this.fallsBack = false;
    this.choose(stream);
  }

  toEnd() {
    this.view.toEnd();
  }

  /** Begin a stream, of a long one with its last lines. */
  async choose(stream) {
    this.turn += 1;
    const { turn } = this;
    this.stream = stream;
    for (const one of this.switches) one.setAttribute("aria-pressed", String(one.dataset.stream === stream));
    this.whole.setAttribute("href", this.address());
    this.disconnect();
    this.terminal.reset();
    this.view.clear();
    this.pieces = [];
    this.over = false;
    this.pause = FIRST_PAUSE;
    this.offset = undefined; // the byte behind what was fetched
    this.from = 0; // the byte that what was fetched begins with
    this.earliest();
    this.counted();
    this.tell("Fetching");
    const from = await this.tail();
    if (turn !== this.turn || this.closed) return;
    this.from = this.offset = from;
    this.earliest();
    this.connect();
  }

  address(more = {}) {
    return address(`v1/jobs/${this.id}/logs`, { stream: this.stream, ...more });
  }

  /** The byte to begin at. Where nobody can tell, all is fetched. */
  async tail() {
    try {
      const answer = await fetch(this.address({ tail: FIRST }), {
        method: "HEAD",
        cache: "no-store",
        signal: AbortSignal.timeout(PATIENCE),
      });
      if (!answer.ok) return 0;
      const [offset, size] = ["Log-Offset", "Log-Size"].map((one) => Number(answer.headers.get(one) ?? 0));
      return Math.max(offset, size - TAIL);
    } catch {
      return 0;
    }
  }

  connect() {
    if (this.source || this.over || this.closed || document.hidden || this.offset === undefined) return;
    const source = new EventSource(this.address({ format: "events", offset: this.offset }));
    this.source = source;
    source.addEventListener("open", () => this.tell("Following"));
    source.addEventListener("log", (event) => this.take(JSON.parse(event.data)));
    source.addEventListener("end", (event) => this.end(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) login.doubted();
      this.lost();
    });
  }

  disconnect() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  /** From where it was: a proxy's error page ends what a browser would take up by itself. */
  lost() {
    this.disconnect();
    if (this.closed) return;
    this.tell("The connection is lost; trying again");
    this.timer = setTimeout(() => this.connect(), this.pause);
    this.pause = Math.min(2 * this.pause, LONGEST_PAUSE);
  }

  take({ text, offset, next_offset: next }) {
    this.pause = FIRST_PAUSE;
    if (offset < this.offset) this.pieces.push({ anew: true });
    this.offset = next;
    this.pieces.push({ text });
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  end({ status }) {
    this.over = true;
    this.disconnect();
    this.draw();
    const nothing = this.view.lines.length === 0 && this.terminal.rest.text === "";
    if (nothing && this.fallsBack) {
      this.fallsBack = false;
      this.choose("stdout");
      return;
    }
    this.tell(
      nothing
        ? `Nothing was printed here. The job ended as ${status}`
        : `End of the log. The job ended as ${status}`,
    );
  }

  /** What has come since the last frame. */
  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const lines = [];
    for (const { anew, text } of this.pieces.splice(0)) {
      if (anew) {
        if (this.terminal.rest.text) lines.push(this.terminal.rest);
        this.terminal.reset();
        lines.push(plain("— begun anew in another attempt —"));
        this.from = 0; // what is stored is this attempt's
      } else {
        for (const line of this.terminal.feed(text)) lines.push(line);
      }
    }
    this.view.append(lines, this.terminal.rest);
    this.earliest();
  }

  // ------------------------------------------------------------------ what came before

  earliest() {
    this.more.hidden = this.from === 0 || this.view.full;
    this.more.textContent = `Show earlier (${bytes(this.from)} are before this)`;
  }

  /** Fetches a piece of what was printed before what is here, whole lines if it has any. */
  async earlier() {
    const { turn, from: end } = this;
    if (this.more.hidden || this.more.disabled) return;
    const begin = Math.max(0, end - EARLIER);
    const where = this.address({ offset: begin, limit: end - begin });
    this.more.disabled = true;
    try {
      const answer = await fetch(where, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) await get(where); // the same question once more tells why, in the server's words
      const data = new Uint8Array(await answer.arrayBuffer());
      if (turn !== this.turn || this.from !== end) return;
      const first = begin === 0 ? 0 : data.subarray(0, -1).indexOf(10) + 1;
      const terminal = new Terminal();
      const lines = terminal.feed(new TextDecoder().decode(data.subarray(first)));
      if (terminal.rest.text) lines.push(terminal.rest);
      this.from = begin + first;
      this.view.prepend(lines);
    } catch (error) {
      say(error.status === undefined ? "The server does not answer." : error.message, "bad");
    } finally {
      this.more.disabled = false;
      this.earliest();
    }
  }

  // ------------------------------------------------------------------ search

  find() {
    this.view.search(this.query.value);
    this.counted();
    // The newest first: that is where the reader is.
    if (this.view.found.length > 0) this.goTo(this.view.found.length - 1);
  }

  counted() {
    const { found, place, wanted } = this.view;
    this.backward.disabled = this.forward.disabled = found.length === 0 && (!wanted || this.from === 0);
    const text = place >= 0 ? `line ${count(place + 1)} of ${count(found.length)}` : number(found.length, "line");
    const shown = wanted ? (found.length > 0 ? text : this.from > 0 ? "not found in this part" : "not found") : "";
    if (this.matches.textContent !== shown) this.matches.textContent = shown;
  }

  goTo(place) {
    if (this.view.found.length === 0) return;
    this.view.show(place);
    this.counted();
  }

  next() {
    if (this.view.found.length === 0) this.previous();
    else this.goTo((this.view.place + 1) % this.view.found.length);
  }

  /** Before the first one it goes on in what was printed earlier, before that from the last one on. */
  async previous() {
    const { view, turn } = this;
    let { place } = view;
    const { wanted } = view;
    while (place <= 0 && !this.more.hidden && !this.more.disabled) {
      const { from } = this;
      await this.earlier();
      if (turn !== this.turn || view.wanted !== wanted || this.from === from) return;
      place = view.current < 0 ? view.found.length : view.place;
    }
    this.goTo(place > 0 ? place - 1 : view.found.length - 1);
  }

  tell(how) {
    const left = this.view.cut ? " The oldest lines are not kept here." : "";
    const text = `${how}.${left}`;
    if (this.how.textContent !== text) this.how.textContent = text;
  }

  close() {
    this.closed = true;
    clearTimeout(this.typing);
    document.removeEventListener("visibilitychange", this.look);
    cancelAnimationFrame(this.frame);
    this.disconnect();
  }
}

function plain(text) {
  return { text, runs: null };
}
