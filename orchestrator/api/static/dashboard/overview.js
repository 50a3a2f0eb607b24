// The overview: how much there is, how it went in the last hour, who fills the queue, what is wrong.

import { h, morph, morphChildren, NOTHING } from "./dom.js";
import { get } from "./api.js";
import { count, duration, foreign } from "./format.js";
import { UNDER_WAY } from "./status.js";
import { link } from "./router.js";
import { queue } from "./services.js";
import { Chart, minutes, WHOLE, SECONDS } from "./charts.js";

const USERS = 20; // at first; each click shows as many again as the list can
const MORE_USERS = 100;
const MOST_USERS = 500; // that one answer has
// Troubles of several nodes.
const ON_NODES = new Set(["suspect", "lost", "set_aside", "drained"]);

export function overviewPage() {
  const numbers = h("ul", { class: "numbers", "aria-label": "Now" });
  const wrong = h("div");
  const waiting = h("div");
  const others = h("button", { type: "button", hidden: true }, `Show ${MORE_USERS} more`);
  let users = USERS;
  const through = new Chart(
    "Jobs per minute, last hour",
    [
      { name: "handed in", colour: "--line-1" },
      { name: "completed", colour: "--line-2", dash: [12, 4] },
      { name: "failed", colour: "--line-3", dash: [7, 3, 2, 3] },
      { name: "killed", colour: "--line-4", dash: [2, 3] },
    ],
    (value) => (value === null || value === undefined ? NOTHING : count(Math.round(value))),
    WHOLE,
  );
  const wait = new Chart(
    "Wait until begun, last hour",
    [
      { name: "mean", colour: "--line-1", points: true },
      { name: "longest", colour: "--line-4", dash: [6, 3], points: true },
    ],
    (value) => (value === null || value === undefined ? NOTHING : duration(value)),
    SECONDS,
  );

  const page = {
    title: "Overview",
    view: h(
      "section",
      null,
      h("h1", { tabindex: -1 }, "Overview"),
      wrong,
      numbers,
      h("div", { class: "charts" }, through.element, wait.element),
      h("h2", null, "Queue"),
      waiting,
      h("p", { class: "more" }, others),
    ),
    every: 15_000,
    async refresh() {
      const [wrongs, services, nodes, holders, activity] = await Promise.all([
        get("v1/troubles"),
        get("v1/services"),
        get("v1/nodes"),
        queued(users),
        get("v1/activity"),
      ]);
      morph(
        numbers,
        h("ul", { class: "numbers", "aria-label": "Now" }, now(services.items, nodes.items, activity)),
      );
      morphChildren(wrong, troubles(wrongs.items));
      morphChildren(waiting, [queue(holders.items, null)]);
      others.hidden = holders.next === null;
      chart(activity);
    },
    close() {
      through.close();
      wait.close();
    },
  };
  others.addEventListener("click", () => {
    users += MORE_USERS;
    page.again();
  });
  return page;

  function chart({ since, items }) {
    const by = minutes(since, items);
    const times = [...by.keys()];
    const sums = (name) => times.map((at) => by.get(at).reduce((sum, one) => sum + one[name], 0));
    // A line of nothing but noughts is no news: it is left out, so that a failure is seen when there is one.
    const found = ["submitted", "completed", "failed", "killed"].map(sums);
    through.show(times, found.map((line, n) => (n < 2 || line.some((one) => one > 0) ? line : line.map(() => null))));
    wait.show(times, [times.map((at) => mean(by.get(at))), times.map((at) => longest(by.get(at)))]);
  }
}

/** The first `most` of those who fill the queue, and whether there are more. */
async function queued(most) {
  const items = [];
  let cursor = null;
  do {
    const page = await get("v1/queue", { limit: Math.min(MOST_USERS, most - items.length), cursor });
    items.push(...page.items);
    cursor = page.next;
  } while (cursor !== null && items.length < most);
  return { items, next: cursor };
}

function mean(items) {
  const begun = items.reduce((sum, one) => sum + one.begun, 0);
  return begun === 0
    ? null
    : items.reduce((sum, one) => sum + one.begun * (one.mean_wait_seconds ?? 0), 0) / begun;
}

function longest(items) {
  const waits = items.map((one) => one.longest_wait_seconds).filter((one) => one !== null);
  return waits.length === 0 ? null : Math.max(...waits);
}

function now(services, nodes, activity) {
  const jobs = (wanted) =>
    services.reduce(
      (sum, one) =>
        sum + Object.entries(one.jobs).reduce((inner, [status, n]) => inner + (wanted(status) ? n : 0), 0),
      0,
    );
  const hour = (name) => activity.items.reduce((sum, one) => sum + one[name], 0);
  // Counted are whole minutes, from the one on that the hour begins in.
  const since = `${activity.since.slice(0, 16)}:00Z`;
  const slots = nodes.reduce((sum, node) => sum + (node.slots ?? 0), 0);
  const held = nodes.reduce((sum, node) => sum + node.held + node.others, 0);
  return [
    number(
      "Queued",
      jobs((status) => status === "Queued"),
      link(["jobs"], { status: "Queued" }),
    ),
    number(
      "Under way",
      jobs((status) => UNDER_WAY.has(status)),
      link(["jobs"], { status: "Running" }),
    ),
    number("Completed, last hour", hour("completed"), link(["jobs"], { status: "Completed", ended_since: since })),
    number(
      "Failed, last hour",
      hour("failed"),
      link(["jobs"], { status: "Failed,Invalid", ended_since: since }),
    ),
    number(
      "Nodes ready",
      `${count(nodes.filter((node) => node.status === "ready").length)} of ${count(nodes.length)}`,
      link(["nodes"]),
    ),
    number("Slots in use", slots > 0 ? `${count(held)} of ${count(slots)}` : count(held), link(["nodes"])),
  ];
}

function number(name, value, href) {
  return h(
    "li",
    { "data-key": name },
    h(
      "a",
      { href },
      h("strong", null, typeof value === "number" ? count(value) : value),
      h("span", null, name),
    ),
  );
}

/** What is wrong, each with the page that says more of it. */
function troubles(items) {
  if (items.length === 0) return [];
  const alike = new Map(); // how many there are of a kind, about the same
  const told = items.map((one) => {
    const about = `${one.kind} ${one.service} ${one.node}`;
    const n = (alike.get(about) ?? 0) + 1;
    alike.set(about, n);
    return h("li", { "data-key": `${about} ${n}` }, foreign(one.text), ...more(one));
  });
  return [h("ul", { class: "troubles", "aria-label": "What is wrong" }, told)];
}

function more(one) {
  if (one.node !== null) return [" ", h("a", { href: link(["nodes", one.node]) }, "Node ", foreign(one.node_name))];
  if (ON_NODES.has(one.kind)) return [" ", h("a", { href: link(["nodes"]) }, "Nodes")];
  if (one.kind === "no_node")
    return [" ", h("a", { href: link(["jobs"], { service: one.service, status: "Queued" }) }, "Jobs")];
  if (one.service !== null) return [" ", h("a", { href: link(["services"]) }, "Services")];
  return [];
}
