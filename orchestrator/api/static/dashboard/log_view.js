// Lines of a log, of which the page holds only those around what is looked at: as many as there may be, it stays
// quick. What is searched for is found in all of them.

import { h } from "./dom.js";

const SHOWN = 600; // lines that the page holds
const BLOCK = 100; // lines that come and go at once
const EDGE = 600; // pixels from the first or last of them at which more are put there
const NEAR = 40; // pixels from the end that count as there
const MOST_CHARACTERS = 48_000_000;

export class LogView {
  /** `found()` is called when there are more or fewer lines with what is searched for. */
  constructor(found) {
    this.told = found;
    this.rest = h("span");
    this.element = h("pre", {
      class: "log",
      tabindex: 0,
      role: "log",
      "aria-live": "off",
      "aria-label": "Output of the job",
    });
    this.element.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.wanted = null;
    this.clear();
  }

  clear() {
    this.lines = [];
    this.characters = 0;
    this.blocks = [];
    this.top = 0; // those from here to the bottom are in the page
    this.bottom = 0;
    this.found = []; // the numbers of lines
    this.current = -1;
    this.cut = false;
    this.follows = true;
    this.rest.replaceChildren();
    this.element.replaceChildren(this.rest);
  }

  /** More lines, and the one that is not complete yet. */
  append(lines, rest) {
    const before = this.lines.length;
    for (const line of lines) {
      this.lines.push(line);
      this.characters += line.text.length;
    }
    if (this.characters > MOST_CHARACTERS) this.forget();
    else if (this.look(before)) this.told();
    if (this.follows) {
      if (this.lines.length - this.bottom > SHOWN) this.open(this.lines.length - SHOWN);
      this.fill(this.lines.length);
      this.trimTop();
    } else {
      this.fill(Math.min(this.lines.length, this.top + SHOWN));
    }
    this.rest.replaceChildren(...drawn(rest, []));
    this.rest.hidden = this.bottom < this.lines.length;
    this.toEnd();
  }

  /** Lines that stand before all others. */
  prepend(lines) {
    this.lines = lines.concat(this.lines);
    for (const line of lines) this.characters += line.text.length;
    this.top += lines.length;
    this.bottom += lines.length;
    if (this.current >= 0) this.current += lines.length;
    this.follows = false;
    this.found = [];
    this.look(0);
    this.told();
    this.up();
  }

  /** The oldest go: nobody reads so many, and no browser holds them. */
  forget() {
    const gone = Math.ceil(this.lines.length / 4);
    for (const line of this.lines.splice(0, gone)) this.characters -= line.text.length;
    this.cut = true;
    this.top -= gone;
    this.bottom -= gone;
    this.current = Math.max(-1, this.current - gone);
    if (this.top < 0) this.open(0);
    this.found = [];
    this.look(0);
    this.told();
  }

  /** Whether it may take more before what is there. */
  get full() {
    return this.cut || this.characters > MOST_CHARACTERS / 2;
  }

  toEnd() {
    if (this.follows) this.element.scrollTop = this.element.scrollHeight;
  }

  // ------------------------------------------------------------------ what is in the page

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.element;
    const left = scrollHeight - scrollTop - clientHeight;
    this.follows = this.bottom === this.lines.length && left < NEAR;
    if (scrollTop < EDGE && this.top > 0) this.up();
    else if (left < EDGE && this.bottom < this.lines.length) this.down();
  }

  up() {
    const from = Math.max(0, this.top - BLOCK);
    if (from === this.top) return;
    const block = h("span");
    for (let n = from; n < this.top; n += 1) block.append(this.line(n));
    this.steady(() => {
      this.element.prepend(block);
      this.blocks.unshift(block);
      this.top = from;
    });
    while (this.bottom - this.top - this.blocks.at(-1).childElementCount >= SHOWN) {
      const last = this.blocks.pop();
      this.bottom -= last.childElementCount;
      last.remove();
    }
    this.rest.hidden = this.bottom < this.lines.length;
  }

  down() {
    this.fill(Math.min(this.lines.length, this.bottom + BLOCK));
    this.steady(() => this.trimTop());
    this.rest.hidden = this.bottom < this.lines.length;
  }

  /** What is looked at stays where it is while something above it comes or goes. */
  steady(change) {
    const { scrollHeight, scrollTop } = this.element;
    change();
    this.element.scrollTop = scrollTop + this.element.scrollHeight - scrollHeight;
  }

  fill(upto) {
    while (this.bottom < upto) {
      let last = this.blocks.at(-1);
      if (!last || last.childElementCount >= BLOCK) {
        last = h("span");
        this.rest.before(last);
        this.blocks.push(last);
      }
      const end = Math.min(upto, this.bottom + BLOCK - last.childElementCount);
      for (; this.bottom < end; this.bottom += 1) last.append(this.line(this.bottom));
    }
  }

  trimTop() {
    while (this.bottom - this.top - this.blocks[0]?.childElementCount >= SHOWN) {
      const first = this.blocks.shift();
      this.top += first.childElementCount;
      first.remove();
    }
  }

  /** Those from this line on, and no others. */
  open(from) {
    this.blocks = [];
    this.element.replaceChildren(this.rest);
    this.top = this.bottom = Math.max(0, from);
    this.fill(Math.min(this.lines.length, this.top + SHOWN));
    this.rest.hidden = this.bottom < this.lines.length;
  }

  line(n) {
    const line = this.lines[n];
    const marks = this.wanted ? [...line.text.matchAll(this.wanted)] : [];
    return h("span", { class: n === this.current && "current" }, drawn(line, marks), "\n");
  }

  // ------------------------------------------------------------------ search

  /** Finds the lines with this text, in letters of either case; none for "". */
  search(text) {
    const escaped = text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
    this.wanted = text === "" ? null : new RegExp(escaped, "giu");
    this.found = [];
    this.current = -1;
    this.look(0);
    let n = this.top;
    for (const block of this.blocks) {
      const many = block.childElementCount;
      block.replaceChildren(...Array.from({ length: many }, (_, place) => this.line(n + place)));
      n += many;
    }
  }

  /** Whether what is searched for is in lines from here on. */
  look(from) {
    const before = this.found.length;
    if (this.wanted) {
      for (let n = from; n < this.lines.length; n += 1) {
        if (this.lines[n].text.search(this.wanted) >= 0) this.found.push(n);
      }
    }
    return this.found.length !== before;
  }

  /** The place of the current line among those that are found, from 0 on; -1 before there is one. */
  get place() {
    return this.found.indexOf(this.current);
  }

  /** Goes to one of the lines that are found. */
  show(place) {
    const before = this.current;
    this.current = this.found[place];
    this.follows = false;
    if (this.current < this.top || this.current >= this.bottom) this.open(this.current - SHOWN / 2);
    this.shown(before)?.classList.remove("current");
    const line = this.shown(this.current);
    line.classList.add("current");
    this.element.scrollTop = line.offsetTop - this.element.clientHeight / 2;
  }

  shown(n) {
    if (n < this.top || n >= this.bottom) return null;
    let place = n - this.top;
    for (const block of this.blocks) {
      if (place < block.childElementCount) return block.children[place];
      place -= block.childElementCount;
    }
    return null;
  }
}

/** Text nodes, and spans of the few classes that a colour can be; what is searched for is marked. */
function drawn({ text, runs }, marks) {
  const parts = [];
  let at = 0;
  for (const run of runs ?? [{ text, style: "" }]) {
    const inner = marked(run.text, at, marks);
    parts.push(run.style === "" ? inner : h("span", { class: run.style }, inner));
    at += run.text.length;
  }
  return parts.flat();
}

function marked(text, begin, marks) {
  const parts = [];
  let at = 0;
  for (const mark of marks) {
    const from = Math.max(at, mark.index - begin);
    const to = Math.min(text.length, mark.index + mark[0].length - begin);
    if (from >= to) continue;
    parts.push(text.slice(at, from), h("mark", null, text.slice(from, to)));
    at = to;
  }
  parts.push(text.slice(at));
  return parts.filter((one) => one !== "");
}
