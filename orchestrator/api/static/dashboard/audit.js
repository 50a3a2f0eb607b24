// Who did what: every order, and a sample of what was refused. Also of one job or node, on its page.

import { field, h, heed, morphChildren, table, NOTHING } from "./dom.js";
import { get } from "./api.js";
import { foreign, nodeName, number, time } from "./format.js";
import { link } from "./router.js";
import { may } from "./session.js";

const PAGE = 50;
const MOST = 500; // lines; who wants older ones narrows the list
const FEW = 3; // of one job or node
const FIELDS = ["who", "action", "job", "node"];
const NEEDS = "GET /v1/audit";

// As it is said of what was done; what is not here is said as the API says it.
const DONE = {
  submit: "Submitted",
  rerun: "Run again",
  terminate: "Cancelled",
  delete: "Data deleted",
  batch: "Batch ordered",
  link: "Link made",
  join: "Joined",
  leave: "Left",
  drain: "Drained",
  undrain: "Undrained",
  forget_secret: "Secret forgotten",
  pause: "Paused",
  resume: "Resumed",
  "log in": "Logged in",
  reload: "Settings read again",
  "log-level": "Log level set",
  "create token": "Token created",
  "revoke token": "Token revoked",
  refused: "Refused",
};

const COLUMNS = [
  { name: "When", head: true, short: true, show: (line) => time(line.at) },
  { name: "Who", show: (line) => [who(line), line.address && [" ", h("small", null, "from ", foreign(line.address))]] },
  { name: "Action", short: true, show: (line) => DONE[line.action] ?? foreign(line.action) },
  { name: "On", show: subject },
  { name: "Detail", show: (line) => (line.detail ? h("span", { class: "why" }, foreign(line.detail)) : NOTHING) },
];

function who(line) {
  const name = line.who ? foreign(line.who) : "nobody known";
  return line.role && line.role !== line.who ? [name, ` (${line.role})`] : name;
}

function subject(line) {
  if (line.job !== null) return h("a", { href: link(["jobs", line.job]) }, `job ${line.job}`);
  const name = line.node_name ?? line.node;
  if (name !== null) return h("a", { href: link(["nodes", line.node]) }, foreign(nodeName(name)));
  return line.about === null ? NOTHING : foreign(line.about);
}

/** Who did something to it lately, in one line, the newest first; null where that may not be asked for, or nobody
 * did. `about`: {job} or {node}. */
export async function deeds(about) {
  if (!may(NEEDS)) return null;
  const { items, next } = await get("v1/audit", { ...about, limit: FEW });
  if (items.length === 0) return null;
  const told = items.map((line, n) => [
    n > 0 && "; ",
    n > 0 ? (DONE[line.action] ?? line.action).toLowerCase() : (DONE[line.action] ?? line.action),
    " by ",
    who(line),
    " at ",
    time(line.at),
  ]);
  return h("p", { class: "deeds", "data-key": "deeds" }, told, ".", next && [" ", h("a", { href: link(["audit"], about) }, "More")]);
}

/** `given`: what the list is narrowed to. */
export function auditPage(given) {
  const filter = Object.fromEntries(FIELDS.map((name) => [name, given.get(name) ?? ""]));
  let items = [];
  let next = null;
  let turns = 0; // what was asked for before the last of them is out of date
  const said = h("p", { class: "count", role: "status" }, "Loading");
  const list = h("div");
  const more = h("button", { type: "button", hidden: true }, `Show ${PAGE} more`);
  const actions = Object.entries(DONE).map(([name, text]) => h("option", { value: name }, text));
  const action = h("select", { name: "action" }, h("option", { value: "" }, "any"), actions);
  action.value = filter.action;
  if (action.selectedIndex < 0) action.append(h("option", { selected: true }, filter.action));
  const form = h(
    "form",
    { class: "filters", role: "search", "aria-label": "Audit" },
    field(filter, "who", "Who", { size: 14, placeholder: "name of a token" }),
    h("label", null, "Action ", action),
    field(filter, "job", "Job", { inputmode: "numeric", size: 8 }),
    field(filter, "node", "Node", { size: 12 }),
    h("button", { type: "reset" }, "Clear"),
  );

  const parameters = () => Object.fromEntries(FIELDS.map((name) => [name, filter[name].trim()]));

  function show() {
    const rows = items.length > 0 ? [table("Who did what, newest first", COLUMNS, items, keyOf)] : [];
    rows[0]?.classList.add("lines");
    morphChildren(list, rows);
    said.textContent = items.length === 0 ? "Nobody did anything like this." : `${number(items.length, "line")} shown`;
    more.hidden = !next;
  }

  const close = heed(form, FIELDS, filter, () => {
    history.replaceState(null, "", link(["audit"], parameters()));
    turns += 1;
    items = [];
    page.again();
  });
  more.addEventListener("click", () => {
    wanted += PAGE;
    page.again();
  });

  let wanted = PAGE;
  const page = {
    title: "Audit",
    at: "audit",
    view: h(
      "section",
      null,
      h("h1", { tabindex: -1 }, "Audit"),
      form,
      said,
      list,
      h("p", { class: "more" }, more),
    ),
    pace: 3000,
    every: 15_000,
    async refresh() {
      const turn = turns;
      const found = await get("v1/audit", { ...parameters(), limit: Math.min(wanted, MOST) });
      if (turn !== turns) return;
      items = found.items;
      next = wanted < MOST ? found.next : null;
      show();
    },
    close,
  };
  return page;
}

function keyOf(line) {
  return `${line.at} ${line.action} ${line.job} ${line.node} ${line.about}`;
}
