// The list of jobs: searched, narrowed, and live.

import { field, h } from "./dom.js";
import { address, get, Refused } from "./api.js";
import { count } from "./format.js";
import { ENDED, OVER, STATUSES } from "./status.js";
import { carryOutMany, mayOrder, say } from "./orders.js";
import { link } from "./router.js";
import { JobTable } from "./job_table.js";
import { current, may } from "./session.js";

const PAGE = 50;
const FIRST = 20; // rows that mostly fill a window: they are asked for and shown before the others
const MOST = 500; // rows; who wants older ones narrows the list
const TYPING = 200;
const PAGES_AT_ONCE = 20; // a page may be empty and there be more: a search goes on, but not for ever

// What may be ordered of many at once, and of which of them.
const ORDERS = [
  ["cancel", "Cancel", (job) => !OVER.has(job.status)],
  ["rerun", "Run again", (job) => job.status !== "Cleaned"],
  ["delete", "Delete data", (job) => ENDED.has(job.status)],
];
const FIELDS = ["search", "user", "service", "status", "tag", "since", "until", "ended_since", "order"];
const WRITTEN = ["search", "user", "service", "tag"];
// Columns by which the list can be in order, each with its two orders; numbers grow with time.
const SORTED = {
  Job: ["oldest", ""],
  Submitted: ["oldest", ""],
  User: ["user", "user_descending"],
  Service: ["service", "service_descending"],
};
const TIMES = ["since", "until", "ended_since"]; // in the address as the API takes them, in the form in local time

export function jobsPage(given) {
  const filter = Object.fromEntries(FIELDS.map((name) => [name, given.get(name) ?? ""]));
  const shown = h("p", { class: "count", role: "status" });
  const more = h("button", { type: "button", hidden: true }, `Show ${PAGE} more`);
  const older = h("p", { hidden: true }, `These are the first ${MOST}. Narrow the list to see others.`);
  const jobs = new JobTable(
    "Jobs",
    (job) => fits(job, filter),
    MOST,
    ORDERS.some(([name]) => mayOrder(name)) ? () => offer() : null,
  );
  const all = h("input", { type: "checkbox" });
  const many = h("span", { role: "status" });
  const orders = ORDERS.filter(([name]) => mayOrder(name)).map(([name, text, of]) => ({
    text,
    of,
    button: h("button", { type: "button", "data-many": name, hidden: true }, text),
  }));
  const bar = h(
    "div",
    { class: "buttons bulk", role: "group", "aria-label": "Selected jobs", hidden: true },
    h("label", null, all, " Select all that are shown"),
    many,
    orders.map((one) => one.button),
  );

  /** What may be ordered of those that are chosen, each with how many it is for. */
  function offer() {
    const chosen = [...jobs.chosen].map((id) => jobs.jobs.get(id));
    bar.hidden = orders.length === 0 || jobs.jobs.size === 0;
    all.checked = chosen.length > 0 && chosen.length === jobs.jobs.size;
    bar.classList.toggle("chosen", chosen.length > 0);
    many.textContent = chosen.length === 0 ? "" : `${count(chosen.length)} selected`;
    all.indeterminate = chosen.length > 0 && !all.checked;
    for (const { button, text, of } of orders) {
      const size = chosen.filter(of).length;
      button.hidden = chosen.length === 0;
      button.disabled = size === 0;
      button.textContent = `${text} (${count(size)})`;
    }
  }
  all.addEventListener("change", () => {
    jobs.choose(all.checked);
    offer();
  });
  bar.addEventListener("click", ({ target }) => {
    const name = target.dataset?.many;
    if (!name) return;
    const [, , of] = ORDERS.find(([one]) => one === name);
    const ids = [...jobs.chosen].filter((id) => of(jobs.jobs.get(id)));
    carryOutMany(name, ids, () => {
      jobs.choose(false);
      offer();
      page.again();
    });
  });
  const none = h(
    "div",
    { class: "none", hidden: true },
    h("p", null, "No jobs yet."),
    may("POST /upload") && [
      h("p", null, h("a", { href: link(["submit"]) }, "Submit one from here"), ", or from a shell:"),
      h("pre", null, "echo 'echo hello' > run.sh\norchestrator submit run.sh --follow"),
    ],
  );
  const services = h("datalist", { id: "services" });
  let next = null;
  let narrowings = 0;
  let turns = 0; // what was asked for before the last of them is out of date

  const boxes = STATUSES.map((one) => h("input", { type: "checkbox", name: "status", value: one }));
  const chosen = h("summary");
  const choice = h(
    "details",
    { class: "choice" },
    chosen,
    h(
      "fieldset",
      null,
      h("legend", null, "Any of these"),
      boxes.map((box) => h("label", null, box, " ", box.value)),
    ),
  );
  const outside = ({ target }) => choice.contains(target) || choice.removeAttribute("open");
  document.addEventListener("click", outside);
  choice.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    choice.removeAttribute("open");
    chosen.focus();
  });
  const order = h(
    "select",
    { name: "order", "aria-label": "Order" },
    h("option", { value: "" }, "newest first"),
    h("option", { value: "oldest" }, "oldest first"),
    h("option", { value: "user" }, "by user"),
    h("option", { value: "user_descending" }, "by user, reversed"),
    h("option", { value: "service" }, "by service"),
    h("option", { value: "service_descending" }, "by service, reversed"),
  );
  order.value = filter.order;
  for (const box of boxes) box.checked = filter.status.split(",").includes(box.value);

  const headings = [...jobs.element.querySelectorAll("th[scope=col]")].filter(({ textContent }) =>
    Object.hasOwn(SORTED, textContent),
  );
  for (const heading of headings) {
    const [up, down] = SORTED[heading.textContent];
    heading.replaceChildren(h("button", { type: "button", class: "sort" }, heading.textContent));
    heading.firstChild.addEventListener("click", () => {
      order.value = order.value === up ? down : up;
      narrowed();
    });
  }

  // On a narrow screen the jobs come first, unless it is to be seen why these.
  const isNarrowed = FIELDS.some((name) => name !== "search" && filter[name] !== "");
  const folded = h(
    "div",
    { class: "folded", id: "filters" },
    field(filter, "user", "User", { inputmode: "numeric", size: 8 }, current().user !== null),
    field(filter, "service", "Service", { list: "services", size: 12 }),
    choice,
    field(filter, "tag", "Tag", { size: 12 }),
    field(filter, "since", "From", { type: "datetime-local", value: local(filter.since) }),
    field(filter, "until", "Until", { type: "datetime-local", value: local(filter.until) }),
    field(filter, "ended_since", "Ended from", { type: "datetime-local", value: local(filter.ended_since) }),
    h("label", null, "Order ", order),
    h("button", { type: "reset" }, "Clear"),
  );
  const fold = h(
    "button",
    { type: "button", class: "fold", "aria-expanded": String(isNarrowed), "aria-controls": folded.id },
    "Filters",
  );
  fold.addEventListener("click", () => {
    fold.setAttribute("aria-expanded", String(fold.getAttribute("aria-expanded") === "false"));
  });
  const form = h(
    "form",
    { class: "filters", role: "search", "aria-label": "Jobs" },
    field(filter, "search", "Search", { type: "search", placeholder: "name, tag, number" }),
    fold,
    folded,
    services,
  );

  function show() {
    const names = filter.status === "" ? [] : filter.status.split(",");
    chosen.textContent = `Status: ${names.length === 0 ? "any" : names.length < 3 ? names.join(", ") : `${names.length} of them`}`;
    jobs.order = filter.order;
    for (const heading of headings) {
      const way = SORTED[heading.textContent].indexOf(filter.order);
      if (way < 0) heading.removeAttribute("aria-sort");
      else heading.setAttribute("aria-sort", ["ascending", "descending"][way]);
    }
  }
  show();

  function parameters() {
    // Spaces around a text are a slip of the hand.
    return Object.fromEntries(FIELDS.map((name) => [name, filter[name].trim()]));
  }

  /** Up to `most` jobs from a place on; and the place to go on from. */
  async function read(cursor, most) {
    const items = [];
    for (let pages = 0; pages < PAGES_AT_ONCE; pages += 1) {
      const page = await get(address("v1/jobs", { ...parameters(), limit: most - items.length, cursor }));
      items.push(...page.items);
      cursor = page.next;
      if (!cursor || items.length >= most) break;
    }
    return { items, next: cursor };
  }

  async function refresh() {
    const turn = turns;
    const fresh = jobs.jobs.size === 0;
    let wanted;
    try {
      if (!/^(-?[0-9]+)?$/.test(filter.user.trim())) throw new Refused("User is a number.", 400);
      wanted = await read(null, fresh ? FIRST : Math.max(PAGE, Math.min(jobs.jobs.size, MOST)));
    } catch (error) {
      // Beside what is wrong nothing is counted, nor is there more of it.
      if (turn === turns && jobs.jobs.size === 0) shown.hidden = more.hidden = older.hidden = none.hidden = true;
      throw error;
    }
    if (turn !== turns) return;
    jobs.replace(wanted.items);
    next = wanted.next;
    tell();
    if (fresh && next) await addRest(turn);
  }

  /** What a page has behind the first. */
  async function addRest(turn) {
    const rest = await read(next, PAGE - FIRST);
    if (turn !== turns) return;
    jobs.add(rest.items);
    next = rest.next;
    tell();
  }

  function tell() {
    const size = jobs.jobs.size;
    const text =
      size === 0 && !next
        ? "No job matches."
        : `${count(size)} shown${next ? ", and there are more" : ""}`;
    if (shown.textContent !== text) shown.textContent = text;
    offer();
    none.hidden = size > 0 || next !== null || Object.values(parameters()).some((one) => one !== "");
    shown.hidden = !none.hidden;
    more.hidden = !next || size >= MOST;
    older.hidden = !next || size < MOST;
    more.textContent = size === 0 ? "Search further" : `Show ${PAGE} more`;
  }

  more.addEventListener("click", async () => {
    const before = narrowings;
    more.disabled = true;
    try {
      const page = await read(next, PAGE);
      if (before !== narrowings) return;
      turns += 1;
      jobs.add(page.items);
      next = page.next;
      tell();
    } catch (error) {
      say(error.message, "bad");
      if (error.status === undefined) throw error;
    } finally {
      more.disabled = false;
    }
  });

  let typing = 0;
  function narrowed(event) {
    clearTimeout(typing);
    typing = setTimeout(
      () => {
        for (const name of WRITTEN) filter[name] = form.elements[name].value;
        for (const name of TIMES) filter[name] = universal(form.elements[name].value);
        filter.order = order.value;
        const wanted = boxes.filter((box) => box.checked);
        filter.status = wanted.map((box) => box.value).join(",");
        show();
        history.replaceState(null, "", link(["jobs"], parameters()));
        narrowings += 1;
        turns += 1;
        jobs.replace([]);
        page.again();
      },
      event && WRITTEN.includes(event.target.name) ? TYPING : 0,
    );
  }
  form.addEventListener("input", narrowed);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () =>
    setTimeout(() => {
      for (const name of [...WRITTEN, ...TIMES, "order"]) form.elements[name].value = "";
      for (const box of boxes) box.checked = false;
      narrowed();
    }),
  );

  const suggest = () =>
    get("v1/services").then(
      (found) => services.append(...found.items.map((one) => h("option", { value: one.name }))),
      () => undefined, // only a help in typing
    );
  form.addEventListener("focusin", suggest, { once: true });

  const page = {
    title: "Jobs",
    at: "jobs",
    view: h(
      "section",
      null,
      h("h1", { tabindex: -1 }, "Jobs"),
      form,
      shown,
      none,
      bar,
      jobs.element,
      h("p", { class: "more" }, more),
      older,
    ),
    refresh,
    changed(changed) {
      jobs.take(changed, next === null);
      tell();
    },
    pace: 3000, // rows follow at once; this is for why they wait
    every: 15_000,
    close() {
      clearTimeout(typing);
      document.removeEventListener("click", outside);
    },
  };
  return page;
}

/** A time as a form has it, and as the API does; "" for none. */
function local(text) {
  const at = Date.parse(text);
  if (Number.isNaN(at)) return "";
  return new Date(at - 60_000 * new Date(at).getTimezoneOffset()).toISOString().slice(0, 16);
}

function universal(text) {
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? "" : at.toISOString().replace(":00.000Z", "Z");
}

function fits(job, filter) {
  const { search, user, service, status, tag, since, until, ended_since: ended } = filter;
  const at = Date.parse(job.created_at);
  return (
    (user.trim() === "" || String(job.user_id) === user.trim()) &&
    (service.trim() === "" || job.service === service.trim()) &&
    (status === "" || status.split(",").includes(job.status)) &&
    (since === "" || at >= Date.parse(since)) &&
    (until === "" || at < Date.parse(until)) &&
    (ended === "" || (job.ended_at !== null && Date.parse(job.ended_at) >= Date.parse(ended))) &&
    (tag.trim() === "" || job.tags.includes(tag.trim())) &&
    (search.trim() === "" || found(job, search.trim().toLowerCase()))
  );
}

function found(job, text) {
  return (
    String(job.id) === text ||
    String(job.user_id) === text ||
    (job.name ?? "").toLowerCase().includes(text) ||
    job.tags.some((tag) => tag.toLowerCase().includes(text))
  );
}
