// Usage: what jobs used that have ended, by month, user and service.

import { field, h, heed, morphChildren, table, NOTHING } from "./dom.js";
import { address, get } from "./api.js";
import { bytes, count, cut, duration } from "./format.js";
import { current } from "./session.js";
import { link } from "./router.js";

const FIELDS = ["from", "to", "user", "service"];
const MOST = 2000;
const HOUR = 3600;

const COLUMNS = [
  { name: "Month", head: true, short: true, value: (one) => one.month, show: (one) => one.month },
  {
    name: "User",
    numeric: true,
    short: true,
    value: (one) => one.user_id,
    show: (one) => h("a", { href: link(["jobs"], { user: one.user_id }) }, String(one.user_id)),
  },
  { name: "Service", value: (one) => one.service, show: (one) => cut(one.service) },
  figure("Jobs", (one) => one.jobs, count),
  figure("Completed", (one) => one.completed, count),
  figure("Failed", (one) => one.failed + one.invalid, count),
  figure("Killed", (one) => one.killed, count),
  figure("Run time", (one) => one.wall_seconds, duration),
  figure("CPU time", (one) => one.cpu_seconds, duration),
  figure("Memory", (one) => one.memory_byte_seconds, (sum) => `${bytes(sum / HOUR)}·h`),
  figure("Uploaded", (one) => one.bytes_in, bytes),
  figure("Results", (one) => one.bytes_out, bytes),
];

function figure(name, value, write) {
  return { name, numeric: true, value, show: (one) => (value(one) === 0 ? NOTHING : write(value(one))) };
}

/** `given`: what the list is narrowed to, and by which column it is sorted; a name with - before it: the
 * largest first. */
export function usagePage(given) {
  const filter = Object.fromEntries(FIELDS.map((name) => [name, given.get(name) ?? ""]));
  let sorted = given.get("sort") ?? "-Month";
  let items = [];
  let more = false;
  let turns = 0; // what was asked for before the last of them is out of date
  const said = h("p", { class: "count", role: "status" }, "Loading");
  const list = h("div");
  const whole = h("a", { download: "usage.csv" }, "Download as CSV");

  const form = h(
    "form",
    { class: "filters", role: "search", "aria-label": "Usage" },
    field(filter, "from", "From", { placeholder: "2026-01", size: 8 }),
    field(filter, "to", "To", { placeholder: "2026-12", size: 8 }),
    field(filter, "user", "User", { inputmode: "numeric", size: 8 }, current().user !== null),
    field(filter, "service", "Service", { size: 12 }),
    h("button", { type: "reset" }, "Clear"),
  );

  function parameters() {
    return Object.fromEntries(FIELDS.map((name) => [name, filter[name].trim()]));
  }

  function show() {
    const down = sorted.startsWith("-");
    const by = COLUMNS.find((one) => one.name === sorted.replace(/^-/, "")) ?? COLUMNS[0];
    const rows = items.toSorted((one, other) => {
      const [a, b] = [by.value(one), by.value(other)];
      return (a < b ? -1 : Number(a > b)) * (down ? -1 : 1);
    });
    const shown = table("Usage by month, user and service", COLUMNS, rows, keyOf);
    shown.querySelectorAll("th[scope=col]").forEach((heading, n) => {
      const { name } = COLUMNS[n];
      if (name === by.name) heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      heading.replaceChildren(h("button", { type: "button", class: "sort", "data-sort": name }, name));
    });
    morphChildren(list, items.length > 0 ? [shown] : []);
    const text = items.length > 0 ? `${count(items.length)} shown` : "Nothing was used.";
    said.textContent = more ? `The first ${text}. Narrow the list, or download all of it.` : text;
    whole.setAttribute("href", address("v1/usage", { ...parameters(), format: "csv" }));
  }

  function changed() {
    history.replaceState(null, "", link(["usage"], { ...parameters(), sort: sorted === "-Month" ? "" : sorted }));
  }

  const close = heed(form, FIELDS, filter, () => {
    turns += 1;
    changed();
    page.again();
  });
  list.addEventListener("click", (event) => {
    const name = event.target.closest?.("button[data-sort]")?.dataset.sort;
    if (!name) return;
    sorted = sorted === `-${name}` ? name : `-${name}`;
    changed();
    show();
  });

  const page = {
    title: "Usage",
    at: "usage",
    view: h(
      "section",
      null,
      h("h1", { tabindex: -1 }, "Usage"),
      form,
      said,
      list,
      h("p", null, whole, ". Months are by UTC; jobs that are forgotten count on."),
    ),
    pace: 10_000,
    every: 60_000,
    async refresh() {
      const turn = turns;
      const found = await get("v1/usage", { ...parameters(), limit: MOST });
      if (turn !== turns) return;
      items = found.items;
      more = found.next !== null;
      show();
    },
    close,
  };
  return page;
}

function keyOf(one) {
  return `${one.month} ${one.user_id} ${one.service}`;
}
