// Scaling: how each scaled service stands, its machines, and what was decided, with the reasons.

import { facts, h, morphChildren, table, NOTHING } from "./dom.js";
import { get } from "./api.js";
import { count, cut, foreign, nodeName, time } from "./format.js";
import { link } from "./router.js";

const DECISIONS = [
  { name: "At", head: true, show: (one) => time(one.at) },
  { name: "Service", show: (one) => cut(one.service) },
  { name: "Decision", show: (one) => foreign(one.action) },
  { name: "Of", show: (one) => (one.subject ? foreign(one.subject.slice(0, 40)) : NOTHING) },
  { name: "Why", show: (one) => h("span", { class: "why" }, foreign(one.reason)) },
];

const MACHINES = [
  { name: "Machine", head: true, show: (one) => foreign(one.id ?? one.token) },
  { name: "Status", show: (one) => foreign(one.status) },
  {
    name: "Node",
    show: (one) =>
      one.node ? h("a", { href: link(["nodes", one.node]) }, foreign(nodeName(one.node_name))) : NOTHING,
  },
  { name: "Requested", show: (one) => time(one.requested_at) },
  {
    name: "Why",
    show: (one) => (one.reason ? h("span", { class: "why" }, foreign(one.reason)) : NOTHING),
  },
];

export function scalingPage() {
  const standing = h("div", { class: "services" }, h("p", null, "Loading"));
  const decisions = h("div");
  return {
    title: "Scaling",
    view: h(
      "section",
      null,
      h("h1", { tabindex: -1 }, "Scaling"),
      standing,
      h("h2", null, "Decisions"),
      decisions,
    ),
    every: 2000,
    pace: 1000,
    async refresh() {
      const told = await get("v1/scaling");
      morphChildren(
        standing,
        told.items.length > 0
          ? told.items.map(service)
          : [h("p", null, "No service is scaled: its nodes are those of the settings, and those that join.")],
      );
      morphChildren(decisions, [
        told.decisions.length > 0
          ? table(
              "The newest decisions",
              DECISIONS,
              told.decisions,
              (one) => `${one.at} ${one.service} ${one.action} ${one.subject}`,
            )
          : h("p", null, "Nothing was decided yet."),
      ]);
    },
  };
}

function service(one) {
  return h(
    "article",
    { "data-key": one.service },
    h("h2", null, foreign(one.service)),
    one.trouble && h("p", { class: "trouble", "data-key": "trouble" }, foreign(one.trouble)),
    facts([
      ["Nodes", `${count(one.nodes)}, between ${count(one.min_nodes)} and ${count(one.max_nodes)}`],
      ["Starting", count(one.booting)],
      ["Ending", count(one.ending)],
      ["Jobs that could run", count(one.runnable)],
      ["Slots of a node", count(one.slots_per_node)],
      ["Provider", foreign(one.provider)],
    ]),
    one.machines.length > 0 && table("Machines", MACHINES, one.machines, (machine) => machine.token),
  );
}
