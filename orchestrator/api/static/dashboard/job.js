// One job. What its reader came for stands first: of one that failed the reason and its errors, of one that runs
// how far it is, of one that waits its place, of one that is done the results. The rest is below.

import { deeds } from "./audit.js";
import { now } from "./clock.js";
import { facts, h, morph, morphChildren, move } from "./dom.js";
import { get } from "./api.js";
import { asked, between, bytes, count, duration, expected, foreign, lasting, limits, nodeName, time, visible } from "./format.js";
import { badge, BEFORE, ENDED, kindOf, OVER, UNDER_WAY } from "./status.js";
import { button, unqueued } from "./orders.js";
import { link } from "./router.js";
import { current, may } from "./session.js";
import { Files } from "./files.js";
import { Log } from "./log.js";
import { changesOf, origin } from "./origin.js";
import { Viewer } from "./viewer.js";
import { progress, took } from "./job_table.js";

// Where the message of a job that waits does not say its place.
const PLACELESS = new Set(["paused", "user_quota", "backoff"]);
// What comes in which order, by how the job stands.
const ORDERS = {
  waiting: ["about", "brief", "inputs", "log", "results", "facts", "life"],
  running: ["about", "brief", "log", "results", "inputs", "facts", "life"],
  failed: ["about", "brief", "log", "results", "inputs", "facts", "life"],
  done: ["about", "brief", "results", "log", "inputs", "facts", "life"],
};
// Who cancelled it, by their role.
const BY = { operator: " by an operator", portal: " by the portal", user: " by its user" };
// It was never submitted; or its number is none.
const NO_SUCH = new Set([404, 400]);

export function jobPage(subject, given) {
  const id = /^[1-9][0-9]{0,9}$/.test(subject) ? Number(subject) : 0;
  const heading = h("h1", { tabindex: -1 }, "Job ", foreign(subject));
  const viewer = new Viewer(id);
  const log = new Log(id);
  const files = new Files(id, viewer);
  const sections = {
    about: h("div", null, h("p", null, "Loading")),
    brief: files.brief,
    log: log.element,
    results: files.results,
    inputs: files.inputs,
    facts: h("section", { "aria-labelledby": "facts-heading", hidden: true }),
    life: h("section", { "aria-labelledby": "life-heading", hidden: true }),
  };
  const { about, life } = sections;
  log.element.hidden = files.results.hidden = files.inputs.hidden = true;
  const [logged, listed] = ["logs", "files"].map((what) => may(`GET /v1/jobs/{id}/${what}`));
  const view = h("section", null, heading, viewer.element, ...ORDERS.waiting.map((one) => sections[one]));
  view.addEventListener("keydown", ({ key, target }) => {
    if (key === "Escape" && viewer.path !== null && !target.closest("input, textarea, dialog")) viewer.leave();
  });
  let job = null;
  let seen = 0; // the version whose history and files are shown
  let begun = false;
  let order = ORDERS.waiting;
  let did = null; // who did what to it
  let changes = null; // how its inputs differ from those of the job that it runs again
  let unknown = !id; // then it is not asked for, unless it comes into being

  function show() {
    const title = job.name === null ? [`Job ${id}`] : [foreign(job.name), " ", h("small", null, `job ${id}`)];
    morphChildren(heading, title.map((one) => (typeof one === "string" ? document.createTextNode(one) : one)));
    page.title = job.name === null ? `Job ${id}` : `${visible(job.name)} · job ${id}`;
    page.titled?.();
    if (job.status !== "Queued") unqueued(id);
    arrange();
    morph(about, h("div", null, standing(job), progressed(job), origin(job, changes), did?.cloneNode(true), orders(job)));
    morph(
      sections.facts,
      h(
        "section",
        { "aria-labelledby": "facts-heading" },
        h("h2", { id: "facts-heading" }, "Details"),
        told(job),
      ),
    );
    const cleaned = job.status === "Cleaned";
    log.element.hidden = cleaned || !logged || (BEFORE.has(job.status) && job.attempts_used === 0);
    files.results.hidden = cleaned || !listed || BEFORE.has(job.status);
    // Of one that waits the inputs themselves are next.
    files.brief.hidden = cleaned || !listed || BEFORE.has(job.status);
    files.over = OVER.has(job.status);
    files.begun = !BEFORE.has(job.status);
    files.inputs.hidden = cleaned || !listed;
    if (!begun && logged && !log.element.hidden) {
      begun = true;
      // Of one that failed the errors; where there are none, what it printed.
      log.begin(job.status === "Failed" ? "stderr" : "stdout");
    } else if (begun && job.status === "Failed") {
      log.prefer("stderr");
    }
  }

  /** What is scrolled, selected and focused stays as it is while the order does. */
  function arrange() {
    const wanted = ORDERS[standingOf(job)];
    if (wanted === order) return;
    order = wanted;
    const focused = view.contains(document.activeElement) ? document.activeElement : null;
    let at = viewer.element.nextSibling;
    for (const one of wanted) {
      // What is right where it stands is let alone: a press on it that is under way would be lost.
      if (sections[one] === at) at = at.nextSibling;
      else move(view, sections[one], at);
    }
    log.toEnd();
    focused?.focus({ preventScroll: true });
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
    await Promise.all([showLife(), showRest()]);
  }

  async function showLife() {
    const { items } = await get(`v1/jobs/${id}/history`);
    life.hidden = false;
    morphChildren(life, timeLine(items, job));
  }

  async function showRest() {
    const [done, differ] = await Promise.all([
      deeds({ job: id }),
      changes ?? changesOf(job),
      job.status === "Cleaned" || !listed ? null : files.refresh(),
    ]);
    did = done;
    changes = differ;
    show();
  }

  const here = link(["jobs", id]);
  let stepped = false; // the file that is shown is one step in the history after the job
  // Without a file in the address none is shown.
  viewer.leave = () => {
    if (stepped) {
      history.back();
    } else {
      history.replaceState(null, "", here);
      viewer.close();
    }
  };
  files.awaited = given.get("file");

  const page = {
    title: `Job ${subject}`,
    view,
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
      const { cancelled, files_left_out } = job;
      // What an event does not tell stays until it is asked for again.
      const when = found.status === job.status ? { starts_at: job.starts_at, ends_at: job.ends_at } : {};
      job = { ...found, ...when, callback: found.callback ?? job.callback, cancelled, files_left_out };
      show();
    },
    moved([name, other, ...rest], given) {
      if (name !== "jobs" || other !== subject || rest.length > 0) return false;
      const path = given.get("file");
      stepped = path !== null;
      if (stepped) files.open(path);
      else viewer.close();
      return true;
    },
    close: () => log.close(),
  };
  return page;
}

function standingOf(job) {
  if (job.status === "Completed") return "done";
  if (OVER.has(job.status)) return "failed";
  return BEFORE.has(job.status) ? "waiting" : "running";
}

function progressed(job) {
  const shown = progress(job);
  return UNDER_WAY.has(job.status) && shown && h("p", { class: "far", "data-key": "far" }, shown);
}

function standing(job) {
  return h(
    "p",
    { class: "standing", "data-key": "standing" },
    badge(job.status),
    " ",
    job.terminate_requested && !OVER.has(job.status) && "to be cancelled; ",
    foreign(job.message || ""),
    ended(job),
    PLACELESS.has(job.waiting_for) &&
      job.position > 0 &&
      ` (${count(job.position)} of its service before it)`,
    foretold(job),
    BEFORE.has(job.status) &&
      job.no_estimate &&
      h("small", { class: "when" }, " When it begins is not known: ", foreign(job.no_estimate), "."),
  );
}

/** Who ended it, and when; nothing of one that went on to its own end. */
function ended(job) {
  if (!job.cancelled || !["Locked", "Killed"].includes(job.outcome ?? job.status)) return null;
  const mine = job.cancelled.by === "user" && current()?.role === "user";
  const by = mine ? " by you" : BY[job.cancelled.by];
  return h("span", { class: "when" }, `; cancelled${by ?? ""} `, time(job.cancelled.at));
}

const TELLING = 0.05; // a share of the work from which on it says when the rest is done
let heard = { job: 0, share: 0, at: 0 }; // how far the job that is shown was, and when that was heard

/** When it is likely to begin or to end; nothing where that is not known. */
export function foretold(job) {
  let what = job.starts_at ? `begin ${expected(job.starts_at)}` : job.ends_at && `end ${expected(job.ends_at)}`;
  if (job.status === "Running" && job.progress > 0) {
    // Its script knows better than what others took.
    const end = job.started_at && job.progress >= TELLING && endOf(job);
    what = end && `end ${expected({ earliest: end, latest: end })}`;
  }
  return what && h("span", { class: "when" }, `${job.message ? "; " : ""}likely to ${what}`);
}

/** When it ends if the rest takes as long for its share as what is done. */
function endOf({ id, progress: share, started_at: begun }) {
  if (heard.job !== id || heard.share !== share) heard = { job: id, share, at: now() };
  const from = Date.parse(begun);
  return new Date(Math.max(now(), from + (heard.at - from) / share)).toISOString();
}

function toList() {
  return h("p", null, h("a", { href: link(["jobs"]) }, "To the list of jobs"));
}

function orders(job) {
  return h(
    "p",
    { class: "buttons", "data-key": "orders" },
    !OVER.has(job.status) && button("cancel", job.id, "Cancel", `Cancel job ${job.id}`),
    job.status !== "Cleaned" && button("rerun", job.id, "Run again", `Run again: job ${job.id}`),
    job.status !== "Cleaned" &&
      may("POST /upload") &&
      h("a", { href: link(["submit"], { from: job.id }), "data-key": "change" }, "Change and run"),
    ENDED.has(job.status) && button("delete", job.id, "Delete data", `Delete data of job ${job.id}`),
    ENDED.has(job.status) &&
      may("GET /v1/jobs/{id}/results") &&
      h(
        "a",
        { href: `v1/jobs/${job.id}/results`, download: true, "data-key": "results" },
        "Everything as a zip",
      ),
  );
}

function told(job) {
  const outcome = job.signal !== null ? `signal ${job.signal}` : job.exit_code;
  return facts([
    ["Progress", !UNDER_WAY.has(job.status) && progress(job)],
    [
      "Tags",
      job.tags.length > 0
        ? job.tags.map((tag) => h("a", { class: "tag", href: link(["jobs"], { tag }) }, foreign(tag)))
        : null,
    ],
    ["Service", h("a", { href: link(["jobs"], { service: job.service }) }, foreign(job.service))],
    ["User", h("a", { href: link(["jobs"], { user: job.user_id }) }, String(job.user_id))],
    ["Submitted", time(job.created_at)],
    ["Started", job.started_at && time(job.started_at)],
    ["Ended", job.ended_at && time(job.ended_at)],
    ["Likely end", job.starts_at && job.ends_at && expected(job.ends_at)],
    ["No estimate", !BEFORE.has(job.status) && job.no_estimate && foreign(job.no_estimate)],
    job.status === "Queued" ? ["Waiting", lasting(job.created_at)] : ["Run time", took(job)],
    ["Exit code", outcome],
    ["CPU time", job.cpu_seconds !== null ? duration(job.cpu_seconds) : null],
    ["Peak memory", job.peak_bytes !== null ? bytes(job.peak_bytes) : null],
    ["Input", bytes(job.input_bytes)],
    ["Output", job.output_bytes !== null ? bytes(job.output_bytes) : null],
    ["Node", job.node && node(job)],
    ["Batch job", job.batch && batch(job.batch)],
    ["Attempts", job.attempts_used > 0 ? count(job.attempts_used) : null],
    ["Requires", job.requires && foreign(job.requires)],
    ["Time limit", job.max_runtime_seconds ? duration(job.max_runtime_seconds) : null],
    ["Limits", limits(job.limits)],
    ["Asks for", asked(job.batch_request)],
    [
      "Rerun of",
      job.rerun_of !== null ? h("a", { href: link(["jobs", job.rerun_of]) }, `job ${job.rerun_of}`) : null,
    ],
    ["Ignored fields", job.ignored.length ? foreign(job.ignored.join(", ")) : null],
    ["Callback", job.callback ? callback(job.callback) : null],
    [
      "Left out of the results",
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

/** What the batch system that runs it calls it, and says of it. */
function batch(found) {
  const said = [found.state, found.reason].filter(Boolean).join(": ");
  return [foreign(`${found.system} ${found.id}`), said && h("small", null, foreign(said))];
}

/** The node that a job, or a step of one, is on. */
function node(there) {
  const name = foreign(nodeName(there.node_name ?? there.node));
  return may("GET /v1/nodes") ? h("a", { href: link(["nodes", there.node]) }, name) : name;
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
    h("h2", { id: "life-heading" }, "History"),
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
              node(step),
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
    // Above 1 in all, or the bar is not filled.
    part.style.flexGrow = String(Math.max(1, 1000 * between(step.at, step.until)));
    shown.append(part);
  }
  return shown;
}
