// Services: their quotas, their queues, and who fills them.

import { facts, h, morphChildren, table } from "./dom.js";
import { get } from "./api.js";
import { getIfAllowed } from "./session.js";
import { count, cut, duration, foreign, limits, percent, time } from "./format.js";
import { badge, STATUSES } from "./status.js";
import { button } from "./orders.js";
import { link } from "./router.js";

const MOST_USERS = 10;
const RUNNING = ["Processing", "Submitted", "Prepared", "Running", "Locked"];

export function servicesPage() {
  const list = h("div", { class: "services" }, h("p", null, "Loading"));
  return {
    title: "Services",
    view: h("section", null, h("h1", { tabindex: -1 }, "Services"), list),
    every: 10_000,
    async refresh() {
      const { items } = await get("v1/services");
      const queues = await Promise.all(
        items.map((one) => getIfAllowed("v1/queue", { service: one.name, limit: MOST_USERS })),
      );
      const shown = items.map((one, n) => service(one, queues[n]));
      morphChildren(list, shown.length > 0 ? shown : [h("p", null, "No service is configured.")]);
    },
  };
}

function service(one, users) {
  return h(
    "article",
    { "data-key": one.name },
    h("h2", null, foreign(one.name)),
    one.paused !== null &&
      h("p", { class: "trouble", "data-key": "paused" }, "Paused since ", time(one.paused_since), ": ", foreign(one.paused)),
    h(
      "p",
      { class: "buttons", "data-key": "orders" },
      one.paused === null
        ? button("pause", one.name, "Pause", `Pause service ${one.name}`)
        : button("resume", one.name, "Resume", `Resume service ${one.name}`),
    ),
    facts([
      ["Under way", underWay(one)],
      ["Runs for one user", `at most ${count(one.runs_per_user)}`],
      ["Nodes", `${count(one.nodes.ready)} of ${count(one.nodes.known)} ready`],
      [
        "Slots in use",
        `${count(one.nodes.held)}${one.nodes.slots === null ? "" : `; ready nodes have ${count(one.nodes.slots)}`}`,
      ],
      ["Attempts", `at most ${count(one.max_attempts)}; a lost node: ${one.on_node_lost}`],
      ["Longest run", one.max_runtime_seconds ? duration(one.max_runtime_seconds) : null],
      ["A job may use", limits(one.limits)],
      ["Estimates", accuracy(one.estimates)],
    ]),
    h(
      "ul",
      { class: "counts", "aria-label": "Jobs by status" },
      STATUSES.filter((status) => one.jobs[status]).map((status) =>
        h(
          "li",
          { "data-key": status },
          h(
            "a",
            { href: link(["jobs"], { service: one.name, status }) },
            badge(status),
            " ",
            count(one.jobs[status]),
          ),
        ),
      ),
    ),
    users && queue(users.items, one.name),
    users?.next && h("p", null, `These are the first ${MOST_USERS}; `, h("a", { href: link([]) }, "the overview"), " has all."),
  );
}

/** How often jobs began within what was said when they were handed in. */
function accuracy({ judged, inside, median_width_seconds: width, median_wait_seconds: wait }) {
  if (judged === 0) return null;
  const share = `${percent(inside / judged)} of ${count(judged)} jobs began within their estimate`;
  return [share, h("small", null, `half of the estimates span ${duration(width)} or less, half of the jobs waited ${duration(wait)} or less`)];
}

function underWay(one) {
  const jobs = RUNNING.reduce((sum, status) => sum + (one.jobs[status] ?? 0), 0);
  return [
    `${count(jobs)} of ${count(one.max_runs)}`,
    h("meter", {
      max: Math.max(1, one.max_runs),
      value: Math.min(jobs, one.max_runs),
      "aria-label": "Quota in use",
    }),
    one.keep_slots > 0 && h("small", null, `slots kept for it: ${count(one.keep_slots)}`),
  ];
}

/** Who fills a queue. `name` null: of all services. */
export function queue(users, name) {
  if (users.length === 0) return h("p", null, "Nobody waits.");
  const columns = [
    {
      name: "User",
      head: true,
      show: (one) =>
        h("a", { href: link(["jobs"], { user: one.user_id, service: one.service }) }, String(one.user_id)),
    },
    { name: "Service", show: (one) => cut(one.service) },
    { name: "Queued", numeric: true, show: (one) => count(one.queued) },
    { name: "Under way", numeric: true, show: (one) => count(one.under_way) },
  ].filter((one) => name === null || one.name !== "Service");
  return table("Who fills the queue", columns, users, (one) => `${one.service} ${one.user_id}`);
}
