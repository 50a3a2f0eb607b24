// Jobs in a table: how each is written, and rows that follow what happens.

import { drop, h, morph, row, table, NOTHING } from "./dom.js";
import { foreign, lasting, duration, percent, time, visible } from "./format.js";
import { badge, kindOf, UNDER_WAY } from "./status.js";
import { link } from "./router.js";

const COLUMNS = [
  {
    name: "Job",
    head: true,
    short: true,
    show: (job) => h("a", { href: link(["jobs", job.id]) }, String(job.id)),
  },
  { name: "Name", show: named },
  { name: "Status", show: (job) => [badge(job.status), UNDER_WAY.has(job.status) && progress(job)] },
  {
    name: "Service",
    short: true,
    show: (job) =>
      h(
        "a",
        { class: "cut", href: link(["jobs"], { service: job.service }), title: visible(job.service) },
        foreign(job.service),
      ),
  },
  {
    name: "User",
    short: true,
    show: (job) => h("a", { href: link(["jobs"], { user: job.user_id }) }, String(job.user_id)),
  },
  { name: "Submitted", short: true, show: (job) => time(job.created_at) },
  { name: "Time", numeric: true, short: true, show: took },
  {
    name: "Why",
    show: (job) => (job.message ? h("span", { class: "why" }, foreign(job.message)) : NOTHING),
  },
];

function named(job) {
  if (job.name === null && job.tags.length === 0) return NOTHING;
  const tags = job.tags.map((tag) => h("a", { class: "tag", href: link(["jobs"], { tag }) }, foreign(tag)));
  return [
    // As the number does: it is what people press. With the keyboard once is enough.
    job.name !== null && h("a", { class: "called", href: link(["jobs", job.id]), tabindex: -1 }, foreign(job.name)),
    tags.length > 0 && h("span", { class: "tags" }, tags),
  ];
}

/** How far it says it is, and the message it gives of itself; null where it says nothing. */
export function progress(job) {
  const { progress: share, progress_message: message } = job;
  if (share === null && !message) return null;
  return h(
    "span",
    { class: "progress" },
    share !== null && [
      h("progress", { max: 1, value: share, "aria-label": `Progress of job ${job.id}` }),
      ` ${percent(share)} `,
    ],
    message && foreign(message),
  );
}

/** The time it waits so far, runs so far, or ran; nothing for what has not begun, or never did. */
export function took(job) {
  if (job.status === "Queued") return ["waiting ", lasting(job.created_at)];
  if (job.wall_seconds !== null) return duration(job.wall_seconds);
  return UNDER_WAY.has(job.status) && job.started_at !== null ? lasting(job.started_at) : NOTHING;
}

/** The same, with a box before the number by which a job is chosen. */
const CHOOSABLE = COLUMNS.map((one) =>
  one.name !== "Job"
    ? one
    : {
        ...one,
        show: (job) => [
          h("input", { type: "checkbox", "aria-label": `Select job ${job.id}`, "data-select": job.id }),
          one.show(job),
        ],
      },
);

/** What a list may be sorted by, beside when they came: the order's name begins with it. */
const GROUPS = { user: "user_id", service: "service" };

/** A table of at most `most` jobs, in the `order` that lists of the API have. What `fits` goes in where it
 * belongs, what no longer does goes out. */
export class JobTable {
  /** `chose()`: they can be chosen, and others are chosen now; left out, they cannot. */
  constructor(caption, fits, most, chose = null) {
    this.fits = fits;
    this.most = most;
    this.columns = chose ? CHOOSABLE : COLUMNS;
    this.chosen = new Set(); // their numbers
    this.order = "";
    this.jobs = new Map(); // as they are shown, by number, in their order
    this.element = table(caption, this.columns, [], () => "");
    this.element.classList.add("jobs");
    this.body = this.element.querySelector("tbody");
    this.body.addEventListener("change", ({ target }) => {
      const id = Number(target.dataset.select);
      if (target.checked) this.chosen.add(id);
      else this.chosen.delete(id);
      chose();
    });
  }

  /** Nothing else than these are shown, except where a newer state is known already. */
  replace(jobs) {
    const before = this.jobs;
    this.jobs = new Map(jobs.map((job) => [job.id, newer(before.get(job.id), job)]));
    for (const id of before.keys()) if (!this.jobs.has(id)) this.out(id);
    for (const job of this.jobs.values()) this.put(job);
  }

  /** These come below those that are shown. */
  add(jobs) {
    for (const job of jobs) {
      this.jobs.set(job.id, newer(this.jobs.get(job.id), job));
      this.put(this.jobs.get(job.id));
    }
  }

  /** Jobs that have changed. `complete`: none behind the last that is shown is left out. Those that are new are
   * taken in while there is room. */
  take(changed, complete) {
    for (const job of changed) {
      const known = this.jobs.get(job.id);
      if (known && known.version > job.version) continue;
      if (!this.fits(job)) {
        this.jobs.delete(job.id);
        this.out(job.id);
      } else if (known || complete || this.jobs.size === 0 || this.precedes(job, this.last())) {
        this.jobs.set(job.id, newer(known, job));
        this.put(this.jobs.get(job.id));
      }
    }
    this.trim();
  }

  /** Whether one stands above the other. */
  precedes(one, other) {
    const [name, descending] = this.order.split("_");
    const by = GROUPS[name];
    if (by && one[by] !== other[by]) return one[by] > other[by] === Boolean(descending);
    return this.order === "oldest" ? one.id < other.id : one.id > other.id;
  }

  /** The last that is shown, of which there is one. */
  last() {
    return this.of(this.body.lastElementChild);
  }

  of(shown) {
    return this.jobs.get(Number(shown.dataset.key));
  }

  /** Whether some had to go at the end. */
  trim() {
    while (this.body.childElementCount > this.most) {
      const { id } = this.last();
      drop(this.body.lastElementChild);
      this.chosen.delete(id);
      this.jobs.delete(id);
    }
  }

  find(id) {
    return this.body.querySelector(`:scope > [data-key="${id}"]`);
  }

  /** All of them, or none. */
  choose(all) {
    this.chosen = new Set(all ? this.jobs.keys() : []);
    for (const box of this.body.querySelectorAll("[data-select]")) box.checked = all;
  }

  out(id) {
    this.chosen.delete(id);
    const shown = this.find(id);
    if (shown) drop(shown);
  }

  put(job) {
    const wanted = row(this.columns, job, job.id);
    wanted.dataset.kind = kindOf(job.status);
    const shown = this.find(job.id);
    if (shown) {
      morph(shown, wanted);
      return;
    }
    let before = this.body.firstElementChild;
    if (before && this.precedes(this.last(), job)) before = null;
    while (before && this.precedes(this.of(before), job)) before = before.nextElementSibling;
    this.body.insertBefore(wanted, before);
  }
}

/** The newer of both. */
function newer(known, job) {
  if (!known) return job;
  if (known.version > job.version) return known;
  // A change does not say what a job waits for.
  return known.version === job.version ? { ...job, message: known.message } : job;
}
