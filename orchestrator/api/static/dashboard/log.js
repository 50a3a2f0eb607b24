// A job's output as it comes. The page holds the last lines only; the whole is a link away.

import { h } from "./dom.js";
import { address, login } from "./api.js";
import { bytes, count } from "./format.js";
import { Terminal } from "./terminal.js";

const MOST_LINES = 5000;
const MOST_BLOCKS = 200; // pieces that the lines are held in
const TAIL = 1 << 20; // bytes of a long log that are fetched of an ended job
const NEAR = 40; // pixels from the end that count as there
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 8000;

export class Log {
  constructor(id) {
    this.id = id;
    this.stream = "stdout";
    this.terminal = new Terminal();
    this.output = h("pre", {
      class: "log",
      tabindex: 0,
      role: "log",
      "aria-live": "off",
      "aria-label": "Output of the job",
    });
    this.rest = h("span");
    this.how = h("p", { class: "how", role: "status" });
    this.whole = h("a", null, "The whole log");
    this.switches = ["stdout", "stderr"].map((name) =>
      h(
        "button",
        { type: "button", "aria-pressed": String(name === this.stream), "data-stream": name },
        name,
      ),
    );
    this.element = h(
      "section",
      { "aria-labelledby": "log-heading", "data-own": true },
      h("h2", { id: "log-heading" }, "Output"),
      h(
        "p",
        { class: "buttons" },
        h("span", { role: "group", "aria-label": "Which output" }, this.switches),
        this.whole,
      ),
      this.output,
      this.how,
    );
    for (const one of this.switches) one.addEventListener("click", () => this.chose(one.dataset.stream));
    this.output.addEventListener(
      "scroll",
      () => {
        this.follows = this.atEnd();
      },
      { passive: true },
    );
    this.look = () => (document.hidden ? this.disconnect() : this.connect());
    document.addEventListener("visibilitychange", this.look);
    this.pieces = [];
    this.frame = 0;
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
    if (this.follows) this.output.scrollTop = this.output.scrollHeight;
  }

  /** Begin a stream from its beginning; of a long one, from near its end. */
  async choose(stream) {
    this.stream = stream;
    for (const one of this.switches) one.setAttribute("aria-pressed", String(one.dataset.stream === stream));
    this.whole.setAttribute("href", this.address());
    this.disconnect();
    this.clear();
    this.over = false;
    this.pause = FIRST_PAUSE;
    this.offset = 0;
    this.follows = true;
    this.tell("Fetching");
    const size = await this.size();
    if (this.stream !== stream || this.closed) return;
    if (size > TAIL) {
      this.offset = size - TAIL;
      this.put([`… the first ${bytes(this.offset)} are left out`]);
    }
    this.connect();
  }

  address(more = {}) {
    return address(`v1/jobs/${this.id}/logs`, { stream: this.stream, ...more });
  }

  /** Known of what is stored here; 0 of what still grows. */
  async size() {
    try {
      const answer = await fetch(this.address(), { method: "HEAD", cache: "no-store" });
      return answer.ok ? Number(answer.headers.get("Content-Length") ?? 0) : 0;
    } catch {
      return 0;
    }
  }

  clear() {
    this.terminal.reset();
    this.pieces = [];
    this.blocks = [];
    this.lines = 0;
    this.cut = false;
    this.rest.textContent = "";
    this.output.replaceChildren(this.rest);
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
    const nothing = this.lines === 0 && this.terminal.rest === "";
    if (nothing && this.fallsBack) {
      this.fallsBack = false;
      this.choose("stdout");
      return;
    }
    this.tell(
      nothing
        ? `The job is ${status.toLowerCase()}; it has printed nothing here`
        : `The end: the job is ${status.toLowerCase()}`,
    );
  }

  /** What has come since the last frame. */
  draw() {
    this.frame = 0;
    const follows = this.follows;
    for (const { anew, text } of this.pieces.splice(0)) {
      if (anew) {
        const unfinished = this.terminal.rest;
        this.terminal.reset();
        this.put([...(unfinished ? [unfinished] : []), "— begun anew in another attempt —"]);
      } else {
        this.put(this.terminal.feed(text));
      }
    }
    this.rest.textContent = this.terminal.rest;
    if (follows) this.output.scrollTop = this.output.scrollHeight;
  }

  put(lines) {
    if (lines.length === 0) return;
    if (lines.length > MOST_LINES) {
      lines = lines.slice(-MOST_LINES);
      this.cut = true;
    }
    const block = document.createTextNode(`${lines.join("\n")}\n`);
    this.rest.before(block);
    this.blocks.push({ block, lines: lines.length });
    this.lines += lines.length;
    while (this.lines > MOST_LINES && this.blocks.length > 1) {
      const first = this.blocks.shift();
      first.block.remove();
      this.lines -= first.lines;
      this.cut = true;
    }
    if (this.blocks.length > MOST_BLOCKS) this.join();
  }

  /** Many small pieces made into fewer. */
  join() {
    const first = this.blocks.splice(0, MOST_BLOCKS / 2);
    const block = document.createTextNode(first.map((one) => one.block.data).join(""));
    first[0].block.before(block);
    for (const one of first) one.block.remove();
    this.blocks.unshift({ block, lines: first.reduce((sum, one) => sum + one.lines, 0) });
  }

  atEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.output;
    return scrollHeight - scrollTop - clientHeight < NEAR;
  }

  tell(how) {
    const text = `${how}.${this.cut ? ` Only the last ${count(MOST_LINES)} lines are shown.` : ""}`;
    if (this.how.textContent !== text) this.how.textContent = text;
  }

  close() {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.look);
    cancelAnimationFrame(this.frame);
    this.disconnect();
  }
}
