// The one stream of all changes, open while the page is seen.
//
// It begins where the page did, so what that fetches is not fetched a second time. After a break nothing is caught
// up with: the stream begins at the newest change, and what is shown is fetched anew. That is right however long
// the break was, and never a flood.

import { address, login } from "./api.js";

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 8_000;

export class Live {
  /** `changed(jobs)`: the newest of each job that changed since the last frame. `opened()`: from now on no
   * change is missed, and before it some were. `told(text)`: how the connection is. */
  constructor({ changed, opened, told }) {
    this.changed = changed;
    this.opened = opened;
    this.told = told;
    this.on = false;
    this.source = null;
    this.pause = FIRST_PAUSE;
    this.from = null; // the change after which the next stream begins, where not at the newest
    this.timer = 0;
    this.waiting = new Map();
    this.frame = 0;
    document.addEventListener("visibilitychange", () => this.look());
    window.addEventListener("online", () => this.again());
    window.addEventListener("pagehide", () => this.close());
    window.addEventListener("pageshow", () => this.look());
  }

  /** `version`: of all that happened before what is shown is asked for. */
  begin(version) {
    this.on = true;
    if (!this.source) this.from = version;
    this.look();
  }

  end() {
    this.on = false;
    this.close();
  }

  /** Open while the page is seen, closed else: a browser has only few connections to one server. */
  look() {
    if (document.hidden || !this.on) this.close();
    else if (!this.source) this.open();
  }

  again() {
    if (this.source?.readyState !== EventSource.OPEN) {
      this.close();
      this.look();
    }
  }

  /** A request was not answered. A stream that a network has swallowed says nothing of it: begin it anew. */
  doubt() {
    if (this.source?.readyState === EventSource.OPEN) this.lost();
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = this.from = null;
  }

  open() {
    const { from } = this;
    this.close();
    const source = new EventSource(address("v1/events", { after: from }));
    this.source = source;
    source.addEventListener("open", () => {
      this.pause = FIRST_PAUSE;
      this.told("live");
      if (from === null) this.opened();
    });
    source.addEventListener("job", (event) => this.take(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      // It is closed where an answer came, and was a refusal.
      if (source.readyState === EventSource.CLOSED) login.doubted();
      this.lost();
    });
  }

  lost() {
    this.close();
    if (!this.on) return;
    this.told("lost");
    this.timer = setTimeout(() => this.look(), this.pause * (0.75 + 0.5 * Math.random()));
    this.pause = Math.min(2 * this.pause, LONGEST_PAUSE);
  }

  take(event) {
    if (event.job) this.waiting.set(event.job_id, event.job);
    this.frame ||= requestAnimationFrame(() => this.hand());
  }

  hand() {
    this.frame = 0;
    const jobs = [...this.waiting.values()];
    this.waiting.clear();
    this.changed(jobs);
  }
}

/** Calls `work` when asked to: at once, then at most every `pace` milliseconds, and one at a time. */
export class Paced {
  constructor(work, pace) {
    this.work = work;
    this.pace = pace;
    this.busy = false;
    this.wanted = false;
    this.timer = 0;
    this.ended = false;
    this.last = -Infinity;
  }

  /** Soon, in its pace. */
  ask() {
    if (this.ended) return;
    if (this.busy) {
      this.wanted = true;
    } else if (!this.timer) {
      const wait = Math.max(0, this.last + this.pace - performance.now());
      this.timer = setTimeout(() => this.now(), wait);
    }
  }

  /** Now, whatever its pace. */
  async now() {
    clearTimeout(this.timer);
    this.timer = 0;
    if (this.ended) return;
    if (this.busy) {
      this.wanted = true;
      this.last = -Infinity;
      return;
    }
    this.busy = true;
    this.last = performance.now();
    try {
      await this.work();
    } finally {
      this.busy = false;
      if (this.wanted) {
        this.wanted = false;
        this.ask();
      }
    }
  }

  end() {
    this.ended = true;
    clearTimeout(this.timer);
  }
}
