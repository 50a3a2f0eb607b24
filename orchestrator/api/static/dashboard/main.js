// Puts the dashboard together.

import { Live } from "./live.js";
import { Router } from "./router.js";
import { carryOut, say } from "./orders.js";
import { login } from "./api.js";
import { loginForm } from "./login.js";
import { ask, current, forget, logOut, may } from "./session.js";
import { foreign, tick } from "./format.js";
import { h } from "./dom.js";
import { auditPage } from "./audit.js";
import { jobPage } from "./job.js";
import { jobsPage } from "./jobs.js";
import { nodePage, nodesPage } from "./nodes.js";
import { overviewPage } from "./overview.js";
import { scalingPage } from "./scaling.js";
import { servicesPage } from "./services.js";
import { submitPage } from "./submit.js";
import { usagePage } from "./usage.js";

const AGAIN = 2000;
const NEEDS = new Map([
  ["audit", "GET /v1/audit"],
  ["nodes", "GET /v1/nodes"],
  ["scaling", "GET /v1/scaling"],
  ["submit", "POST /upload"],
  ["usage", "GET /v1/usage"],
]);

// What makes each page.
const PAGES = {
  audit: auditPage,
  job: jobPage,
  jobs: jobsPage,
  node: nodePage,
  nodes: nodesPage,
  overview: overviewPage,
  scaling: scalingPage,
  services: servicesPage,
  submit: submitPage,
  usage: usagePage,
};
const OF_ONE = { jobs: "job", nodes: "node" };

/** Which of the pages stands at an address; undefined where none does. */
function named([name = "overview", subject, ...rest]) {
  if (rest.length || Object.values(OF_ONE).includes(name)) return undefined;
  const found = subject === undefined ? name : OF_ONE[name];
  return Object.hasOwn(PAGES, found) ? found : undefined;
}

function routes(parts, given) {
  const [name, subject] = parts;
  if (NEEDS.has(name) && !may(NEEDS.get(name))) return null;
  // Who sees jobs alone begins with them.
  const found = name === undefined && !may("GET /v1/activity") ? "jobs" : named(parts);
  if (found === undefined) return null;
  return PAGES[found](...(subject === undefined ? [given] : [subject, given]));
}

const view = document.getElementById("view");
const trouble = document.getElementById("trouble");
const connection = document.getElementById("connection");
const pages = document.getElementById("pages");
const who = document.getElementById("who");
const menu = document.getElementById("menu"); // of a narrow screen: opens the pages, and who is logged in
const router = new Router(routes, view, trouble, () => live.doubt());
let lost = false;

const live = new Live({
  changed: (jobs) => router.changed(jobs),
  opened: () => router.renew(),
  told(how) {
    if (how === "live") {
      connection.textContent = lost ? "live again" : "live";
      lost = false;
    } else if (!lost) {
      connection.textContent = "connection lost; trying again";
      lost = true;
    }
    connection.dataset.how = how;
  },
});

/** Somebody is logged in: what they may see is shown, at the address where they are. */
function enter() {
  const { name, role, user, session_token: session, version } = current();
  const their = user === null ? role : `${role} ${user}`;
  who.querySelector("span").replaceChildren(foreign(name), ` (${their})`);
  who.querySelector("button").hidden = session === null;
  for (const one of pages.querySelectorAll("[data-needs]")) one.hidden = !may(one.dataset.needs);
  const again = view.querySelector(".login") !== null;
  who.hidden = pages.hidden = menu.hidden = false;
  connection.hidden = false;
  lost = false;
  if (again) view.replaceChildren();
  router.show(again || undefined);
  if (may("GET /v1/events")) {
    live.begin(version);
  } else {
    live.end();
    connection.textContent = "renewed every few seconds";
    delete connection.dataset.how;
  }
}

/** Nobody is: the form is shown, and the address stays. */
function leave(why) {
  if (view.querySelector(".login")) return;
  live.end();
  router.leave();
  forget();
  who.hidden = pages.hidden = menu.hidden = connection.hidden = true;
  unfold(false);
  view.replaceChildren(loginForm(why, enter));
  document.title = "Log in · Job orchestrator";
  view.querySelector("input").focus();
}

function unfold(open) {
  menu.setAttribute("aria-expanded", String(open));
}

let looking = false;

/** Somebody else may be logged in meanwhile, in another window: an answer may be to the session before. */
login.ended = async () => {
  if (looking) return;
  if (current() === null) return leave(null);
  looking = true;
  try {
    await ask();
  } catch (error) {
    if (error.status === undefined) throw error;
    return leave("The session has ended. Log in again to go on.");
  } finally {
    looking = false;
  }
  enter();
};

/** Whether the same are logged in as before: another window may have logged out, or in as somebody else. */
login.doubted = async () => {
  const before = current();
  if (!before) return;
  try {
    const { session_token: session, name } = await ask();
    if (session !== before.session_token || name !== before.name) enter();
  } catch (error) {
    if (error.status === undefined) throw error;
  }
};

async function begin() {
  try {
    await ask();
  } catch (error) {
    if (error.status === undefined) throw error;
    if (error.status === 401) return;
    trouble.replaceChildren(h("p", { class: "trouble" }, foreign(error.message)));
    setTimeout(begin, AGAIN);
    return;
  }
  enter();
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // what stands behind # names the page
  document.getElementById("main").focus();
});
menu.addEventListener("click", () => unfold(menu.getAttribute("aria-expanded") === "false"));
pages.addEventListener("click", () => unfold(false));
document.querySelector("header").addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || menu.getAttribute("aria-expanded") === "false") return;
  unfold(false);
  menu.focus();
});
document.getElementById("log-out").addEventListener("click", async () => {
  // What is still asked for would be refused.
  live.end();
  router.leave();
  try {
    await logOut();
    leave("You are logged out.");
  } catch (error) {
    if (current()) enter();
    say(error.message, "bad");
    if (error.status === undefined) throw error;
  }
});
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button[data-order]");
  if (button) carryOut(button.dataset.order, button.dataset.subject, () => router.renew());
});
document.addEventListener("visibilitychange", () => document.hidden || login.doubted());
setInterval(() => !document.hidden && tick(), 1000);
begin();
