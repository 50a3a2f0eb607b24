// One job: how it is and why, its life as a time line, its output and files, and what can be ordered.

import { facts, h, morph, morphChildren } from "./dom.js";
import { get } from "./api.js";
import { between, bytes, count, duration, foreign, lasting, time } from "./format.js";
import { badge, ENDED, kindOf, OVER } from "./status.js";
import { button } from "./orders.js";
import { link } from "./router.js";
import { may } from "./session.js";
import { Files } from "./files.js";
import { Log } from "./log.js";
import { progress, took } from "./job_table.js";

// Where the message of a job that waits does not say its place.
const PLACELESS = new Set(["paused", "user_quota", "backoff"]);
// It was never handed in; or its number is none.
const NO_SUCH = new Set([404, 400]);

export function jobPage(subject) {
  const id = /^[1-9][0-9]{0,9}$/.test(subject) ? Number(subject) : 0;
  const about = h("div", null, h("p", null, "Loading"));
  const life = h("section", { "aria-labelledby": "life-heading", hidden: true });
  const log = new Log(id);
  const files = new Files(id);
  log.element.hidden = files.element.hidden = true;
  const [logged, listed] = ["logs", "files"].map((what) => may(`GET /v1/jobs/{id}/${what}`));
  let job = null;
  let seen = 0; // the version whose history and files are shown
  let begun = false;
  let unknown = !id; // then it is not asked for, unless it comes into being

  function show() {
    morph(about, h("div", null, standing(job), orders(job), told(job)));
    const cleaned = job.status === "Cleaned";
    log.element.hidden = cleaned || !logged;
    files.element.hidden = cleaned || !listed;
    if (!begun && logged && !cleaned) {
      begun = true;
      log.choose("stdout");
    }
  }

  async function ask() {
    try {
      const found = await get(`v1/jobs/${id}`);
      if (!job || found.version >= job.version) job = found;
    } catch (error) {
      if (!NO_SUCH.has(error.status) || job) throw error;
      unknown = true;
    }
  }

  /** What changes only with a transition. */
  async function follow() {
    if (seen === job.version || !may("GET /v1/jobs/{id}/history")) return;
    seen = job.version;
    const [history] = await Promise.all([
      get(`v1/jobs/${id}/history`),
      job.status === "Cleaned" || !listed ? null : files.refresh(),
    ]);
    show();
    life.hidden = false;
    morphChildren(life, timeLine(history.items, job));
  }

  return {
    title: `Job ${subject}`,
    view: h(
      "section",
      null,
      h("h1", { tabindex: -1 }, "Job ", foreign(subject)),
      about,
      life,
      log.element,
      files.element,
    ),
    async refresh() {
      if (!unknown) await ask();
      if (unknown) {
        morph(about, h("div", null, h("p", null, "There is no job ", foreign(subject), "."), toList()));
        return;
      }
      show();
      await follow();
    },
    every: 10_000, // how a callback goes on is no change of the job
    changed(changed) {
      const found = changed.find((one) => one.id === id);
      if (found) unknown = false;
      if (!job || !found || found.version <= job.version) return;
      job = { ...found, callback: found.callback ?? job.callback, files_left_out: job.files_left_out };
      show();
    },
    close: () => log.close(),
  };
}

function standing(job) {
  return h(
    "p",
    { class: "standing" },
    badge(job.status),
    " ",
    job.terminate_requested && !OVER.has(job.status) && "to be terminated; ",
    foreign(job.message || ""),
    PLACELESS.has(job.waiting_for) &&
      job.position > 0 &&
      ` (${count(job.position)} of its service before it)`,
  );
}

function toList() {
  return h("p", null, h("a", { href: link(["jobs"]) }, "To the list of jobs"));
}

function orders(job) {
  return h(
    "p",
    { class: "buttons" },
    !OVER.has(job.status) && keyed(button("cancel", job.id, "Cancel", `Cancel job ${job.id}`)),
    job.status !== "Cleaned" && keyed(button("rerun", job.id, "Run again", `Run again: job ${job.id}`)),
    ENDED.has(job.status) &&
      keyed(button("delete", job.id, "Delete its data", `Delete its data: job ${job.id}`)),
    ENDED.has(job.status) &&
      may("GET /v1/jobs/{id}/results") &&
      h(
        "a",
        { href: `v1/jobs/${job.id}/results`, download: true, "data-key": "results" },
        "Results as a zip",
      ),
  );
}

// An order never turns into another one under a finger that is on its way.
function keyed(element) {
  if (element) element.dataset.key = element.dataset.order;
  return element;
}

function told(job) {
  const outcome = job.signal !== null ? `signal ${job.signal}` : job.exit_code;
  return facts([
    ["Progress", progress(job)],
    ["Name", job.name && foreign(job.name)],
    [
      "Tags",
      job.tags.length > 0
        ? job.tags.map((tag) => h("a", { class: "tag", href: link(["jobs"], { tag }) }, foreign(tag)))
        : null,
    ],
    ["Service", h("a", { href: link(["jobs"], { service: job.service }) }, foreign(job.service))],
    ["User", h("a", { href: link(["jobs"], { user: job.user_id }) }, String(job.user_id))],
    ["Handed in", time(job.created_at)],
    ["Began", job.started_at && time(job.started_at)],
    ["Ended", job.ended_at && time(job.ended_at)],
    ["Took", took(job)],
    ["Exit code", outcome],
    ["CPU time", job.cpu_seconds !== null ? duration(job.cpu_seconds) : null],
    ["Peak memory", job.peak_bytes !== null ? bytes(job.peak_bytes) : null],
    ["Input", bytes(job.input_bytes)],
    ["Output", job.output_bytes !== null ? bytes(job.output_bytes) : null],
    ["Node", job.node && node(job.node)],
    ["Attempts", job.attempts_used > 0 ? count(job.attempts_used) : null],
    ["Needs", job.requires && foreign(job.requires)],
    ["May run", job.max_runtime_seconds ? duration(job.max_runtime_seconds) : null],
    [
      "Runs again",
      job.rerun_of !== null ? h("a", { href: link(["jobs", job.rerun_of]) }, `job ${job.rerun_of}`) : null,
    ],
    ["Fields ignored", job.ignored.length ? foreign(job.ignored.join(", ")) : null],
    ["Callback", job.callback ? callback(job.callback) : null],
    [
      "Results lack",
      job.files_left_out?.length
        ? h(
            "ul",
            null,
            job.files_left_out.map((one) => h("li", null, foreign(one.path), ": ", foreign(one.reason))),
          )
        : null,
    ],
  ]);
}

function node(id) {
  const name = foreign(id.slice(0, 8));
  return may("GET /v1/nodes") ? h("a", { href: link(["nodes", id]) }, name) : name;
}

/** Whom it is told to, and how that went. */
function callback(told) {
  return [
    `${told.status.replaceAll("_", " ")}, ${count(told.tries)} ${told.tries === 1 ? "try" : "tries"}`,
    h("small", null, foreign(told.url)),
    told.settled_at && h("small", null, "settled ", time(told.settled_at)),
    told.next_at && h("small", null, "next ", time(told.next_at)),
    told.last_error && h("small", { class: "bad" }, foreign(told.last_error)),
  ];
}

/** The job's life: a bar of how long it was in which state, and each step with its time and reason. */
function timeLine(history, job) {
  const steps = history.map((one, n) => ({ ...one, until: history[n + 1]?.at ?? null }));
  const over = OVER.has(job.status);
  return [
    h("h2", { id: "life-heading" }, "Life"),
    bar(steps, over),
    h(
      "ol",
      { class: "life" },
      steps.map((step, n) =>
        h(
          "li",
          { "data-key": `${step.at} ${n}`, "data-kind": kindOf(step.to) },
          badge(step.to),
          " ",
          time(step.at),
          " ",
          step.until
            ? h("small", null, `for ${duration(between(step.at, step.until))}`)
            : !over && h("small", null, "for ", lasting(step.at)),
          step.node &&
            h(
              "small",
              null,
              " on node ",
              node(step.node),
            ),
          step.attempt !== null && step.attempt > 1 && h("small", null, ` attempt ${step.attempt}`),
          step.reason && h("span", { class: "why" }, foreign(step.reason)),
        ),
      ),
    ),
  ];
}

function bar(steps, over) {
  const parts = steps.filter((step) => step.until || !over);
  const shown = h("div", { class: "bar", "aria-hidden": "true" });
  for (const step of parts) {
    const part = h("span", {
      "data-kind": kindOf(step.to),
      title: `${step.to}: ${duration(between(step.at, step.until))}`,
    });
    part.style.flexGrow = String(Math.max(0.001, between(step.at, step.until)));
    shown.append(part);
  }
  return shown;
}
