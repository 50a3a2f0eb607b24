// Nodes: how each is, what it has done, who is on it.

import { deeds } from "./audit.js";
import { facts, h, morph, table, NOTHING } from "./dom.js";
import { get } from "./api.js";
import { bytes, count, cut, duration, foreign, nodeName, visible } from "./format.js";
import { badge, UNDER_WAY } from "./status.js";
import { button, mayOrder } from "./orders.js";
import { link } from "./router.js";
import { JobTable } from "./job_table.js";

const EVERY = 2000;
const MOST_JOBS = 500;

const COLUMNS = [
  {
    name: "Node",
    head: true,
    show: (node) => [
      h(
        "a",
        { class: "cut", href: link(["nodes", node.id]), title: visible(node.id) },
        foreign(nodeName(node.name)),
      ),
      h("small", { class: "address" }, foreign(node.url)),
    ],
  },
  { name: "Status", show: standing },
  { name: "Services", show: (node) => node.services.map((name, n) => [n > 0 && ", ", cut(name)]) },
  {
    name: "Slots",
    numeric: true,
    show: (node) => [
      slots(node),
      node.slots !== null &&
        h("meter", {
          max: node.slots,
          value: Math.min(used(node), node.slots),
          "aria-label": "Slots in use",
        }),
    ],
  },
  {
    name: "Load",
    numeric: true,
    show: (node) => [
      `${Math.round(node.load)} %`,
      h("meter", { max: 100, high: 90, value: node.load, "aria-label": "CPU load" }),
    ],
  },
  { name: "Free", numeric: true, show: free },
  { name: "Failed / ended", numeric: true, show: failures },
  { name: "Occupied by", show: (node) => node.occupants },
  { name: "Actions", show: orders },
];

function used(node) {
  return node.held + node.others;
}

function slots(node) {
  const others = node.others > 0 ? ` (${count(node.others)} of others)` : "";
  return `${count(used(node))} of ${node.slots === null ? "any" : count(node.slots)}${others}`;
}

function standing(node) {
  const why = node.draining ?? node.message;
  return [badge(node.status), why && h("small", { class: "why" }, foreign(why))];
}

function free(node) {
  return [`${bytes(node.free_disk_bytes)} disk`, h("small", null, `${bytes(node.free_memory_bytes)} memory`)];
}

function failures(node) {
  if (node.jobs_ended === undefined) return NOTHING;
  const text = `${count(node.jobs_failed)} / ${count(node.jobs_ended)}`;
  return node.jobs_failed > 0 ? h("strong", { class: "bad" }, text) : text;
}

function orders(node) {
  return node.draining === null
    ? button("drain", node.name, "Drain", `Drain node ${nodeName(node.name)}`)
    : button("undrain", node.name, "Undrain", `Undrain node ${nodeName(node.name)}`);
}

/** Whose jobs are on each node, by its id. */
function crowd(jobs) {
  const by = new Map();
  for (const job of jobs) {
    if (job.node === null) continue;
    const users = by.get(job.node) ?? by.set(job.node, new Map()).get(job.node);
    users.set(job.user_id, (users.get(job.user_id) ?? 0) + 1);
  }
  return by;
}

function occupants(users, node) {
  if (!users) return node.held > 0 ? `${count(node.held)} jobs` : NOTHING;
  return [...users]
    .sort((a, b) => b[1] - a[1])
    .slice(0, 4)
    .map(([user, jobs], n) => [
      n > 0 && ", ",
      h("a", { href: link(["jobs"], { user, status: "Running" }) }, `user ${user}`),
      jobs > 1 && ` (${count(jobs)})`,
    ]);
}

export function nodesPage() {
  const view = h("section", null, h("h1", { tabindex: -1 }, "Nodes"), h("p", null, "Loading"));
  const columns = COLUMNS.filter((one) => one.name !== "Actions" || mayOrder("drain"));
  return {
    title: "Nodes",
    view,
    every: EVERY,
    pace: EVERY,
    async refresh() {
      const [nodes, running] = await Promise.all([
        get("v1/nodes"),
        get("v1/jobs", { status: "Running", limit: MOST_JOBS }),
      ]);
      const users = crowd(running.items);
      const shown = nodes.items.map((node) => ({ ...node, occupants: occupants(users.get(node.id), node) }));
      const ready = shown.filter((node) => node.status === "ready").length;
      morph(
        view,
        h(
          "section",
          null,
          h("h1", { tabindex: -1 }, "Nodes"),
          h(
            "p",
            null,
            shown.length === 0 ? "There is no node." : `${count(ready)} of ${count(shown.length)} are ready.`,
          ),
          table("Nodes, and who occupies them", columns, shown, (node) => node.id),
        ),
      );
    },
  };
}

export function nodePage(subject) {
  // Its id, as soon as that is known of a name.
  let id = subject;
  const jobs = new JobTable(
    "Jobs on this node now, newest first",
    (job) => job.node === id && UNDER_WAY.has(job.status),
    MOST_JOBS,
  );
  const about = h("div");
  const none = h("p", { hidden: true }, "No job is on it now.");
  let did = null; // who did what to it, as of
  let as = null; // this state of it
  const name = h("span", null, foreign(nodeName(id)));
  const view = h(
    "section",
    null,
    h("h1", { tabindex: -1 }, "Node ", name),
    about,
    h("h2", null, "Occupied by"),
    none,
    jobs.element,
  );
  const page = {
    title: `Node ${nodeName(subject)}`,
    view,
    every: EVERY,
    pace: 1000,
    async refresh() {
      const [node, on] = await Promise.all([
        get(`v1/nodes/${encodeURIComponent(subject)}`),
        get("v1/jobs", { node: subject, limit: MOST_JOBS }),
      ]);
      id = node.id;
      morph(name, h("span", null, foreign(nodeName(node.name))));
      page.title = `Node ${nodeName(node.name)}`;
      page.titled();
      const state = `${node.status} ${node.draining}`;
      if (state !== as) did = await deeds({ node: node.id });
      as = state;
      morph(about, h("div", null, h("p", { class: "buttons", "data-key": "orders" }, orders(node)), did?.cloneNode(true), told(node)));
      jobs.replace(on.items);
      none.hidden = jobs.jobs.size > 0;
    },
    changed(changed) {
      jobs.take(changed, true);
      none.hidden = jobs.jobs.size > 0;
    },
  };
  return page;
}

function told(node) {
  const labels = Object.entries(node.labels);
  return facts([
    ["Status", standing(node)],
    ["Id", foreign(node.id)],
    ["Address", foreign(node.url)],
    ["Kind", `${node.kind}, ${node.source}`],
    ["Services", node.services.map((name, n) => [n > 0 && ", ", foreign(name)])],
    ["Slots in use", slots(node)],
    ["Load", `${Math.round(node.load)} %`],
    ["Free disk", bytes(node.free_disk_bytes)],
    ["Free memory", bytes(node.free_memory_bytes)],
    ["Failed / ended", failures(node)],
    [
      "Heard from",
      node.last_contact_seconds === null ? "not yet" : `${duration(node.last_contact_seconds)} ago`,
    ],
    [
      "Labels",
      labels.length > 0
        ? labels.map(([name, value]) =>
            h("span", { class: "tag" }, foreign(value ? `${name}=${value}` : name)),
          )
        : null,
    ],
    ["Machine", node.machine && foreign(node.machine)],
    [
      "Scripts run in",
      node.executor && [foreign(node.executor), h("p", null, foreign(node.executor_limits ?? ""))],
    ],
  ]);
}
