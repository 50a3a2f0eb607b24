// Which page is shown: what stands behind # in the address, such as #/jobs/7 or #/jobs?status=Running.

import { Paced } from "./live.js";
import { h } from "./dom.js";

const NAME = "Job orchestrator";

/** What an address means: its parts, and its parameters. */
export function parsed(hash) {
  const [path, query = ""] = hash.replace(/^#/, "").split(/\?(.*)/s);
  return { parts: path.split("/").filter(Boolean).map(decoded), given: new URLSearchParams(query) };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The address of a page within the dashboard. */
export function link(parts, given = {}) {
  const query = new URLSearchParams(
    Object.entries(given).filter(([, value]) => value !== "" && value !== null && value !== undefined),
  );
  const path = parts.map((part) => encodeURIComponent(String(part))).join("/");
  return `#/${path}${query.size ? `?${query}` : ""}`;
}

/** Shows one page at a time. A page is `{title, view, refresh(), changed(jobs), pace, every, close()}`: what it
 * is called; its element; what fetches and shows its newest state; what it does with jobs that have changed;
 * milliseconds between refreshes that changes cause, and between those that come by themselves. `at`: the first
 * part of its address, where it may be shown at another, too. `moved(parts, given)`: whether it shows what another
 * address means without being made anew. When its title has changed it calls `titled()`. */
export class Router {
  /** `routes` makes the page for the parts of an address; null where there is none.
   * `unanswered()`: a request was not answered. */
  constructor(routes, view, trouble, unanswered) {
    this.unanswered = unanswered;
    this.routes = routes;
    this.view = view;
    this.trouble = trouble;
    this.page = null;
    this.paced = null;
    this.timer = 0;
    this.on = false;
    window.addEventListener("hashchange", () => this.on && !this.stays() && this.show());
  }

  /** Whether the page that is shown takes the address itself. */
  stays() {
    const { parts, given } = parsed(location.hash);
    return Boolean(this.page?.moved?.(parts, given));
  }

  /** No page is shown until the next is asked for. */
  leave() {
    this.on = false;
    this.close();
  }

  close() {
    // What is asked was about the page that is left; the close comes first, for behind a dialog nothing gets
    // the focus.
    for (const asked of document.querySelectorAll("dialog")) asked.close();
    clearInterval(this.timer);
    this.paced?.end();
    this.page?.close?.();
    this.page = this.paced = null;
    this.trouble.replaceChildren();
  }

  /** Show the page of the address, until its first state has come. It is gone on from its heading where one was
   * shown before, or if `focus`. */
  async show(focus = this.on) {
    this.on = true;
    this.close();
    const { parts, given } = parsed(location.hash);
    const page = this.routes(parts, given) ?? missing();
    this.page = page;
    this.view.replaceChildren(page.view);
    page.titled = () => {
      document.title = `${page.title} · ${NAME}`;
    };
    page.titled();
    this.mark(page.at ?? parts[0] ?? "");
    const paced = new Paced(() => this.refreshed(page), page.pace ?? 500);
    this.paced = paced;
    page.again = () => paced.now();
    if (page.every) this.timer = setInterval(() => !document.hidden && paced.ask(), page.every);
    if (focus) this.focus();
    await paced.now();
  }

  focus() {
    window.scrollTo(0, 0);
    this.view.querySelector("h1")?.focus({ preventScroll: true });
  }

  mark(name) {
    for (const one of document.querySelectorAll("nav a")) {
      const here = (one.getAttribute("href") ?? "") === `#/${name}`;
      if (here) one.setAttribute("aria-current", "page");
      else one.removeAttribute("aria-current");
    }
  }

  async refreshed(page) {
    try {
      await page.refresh?.();
      if (page === this.page) this.trouble.replaceChildren();
    } catch (error) {
      if (page === this.page) this.trouble.replaceChildren(h("p", { class: "trouble" }, error.message));
      if (error.status === undefined) throw error;
      if (error.status === 0) this.unanswered();
    }
  }

  /** Everything that is shown may be out of date. */
  renew() {
    this.paced?.now();
  }

  changed(jobs) {
    this.page?.changed?.(jobs);
    if (this.page?.pace !== Infinity) this.paced?.ask();
  }
}

function missing() {
  const title = "No such page";
  const first = h("a", { href: "#/" }, "To the first page");
  return { title, view: h("section", null, h("h1", { tabindex: -1 }, title), h("p", null, first)) };
}
