// Puts the dashboard together.

import { Live } from "./live.js";
import { Router } from "./router.js";
import { carryOut } from "./orders.js";
import { tick } from "./format.js";
import { jobPage } from "./job.js";
import { jobsPage } from "./jobs.js";
import { nodePage, nodesPage } from "./nodes.js";
import { overviewPage } from "./overview.js";
import { scalingPage } from "./scaling.js";
import { servicesPage } from "./services.js";

function routes([name, subject, ...rest], given) {
  if (rest.length) return null;
  if (name === undefined) return overviewPage(given);
  if (name === "jobs") return subject === undefined ? jobsPage(given) : jobPage(subject);
  if (name === "nodes") return subject === undefined ? nodesPage() : nodePage(subject);
  if (subject !== undefined) return null;
  if (name === "services") return servicesPage();
  return name === "scaling" ? scalingPage() : null;
}

const view = document.getElementById("view");
const connection = document.getElementById("connection");
const router = new Router(routes, view, document.getElementById("trouble"), () => live.doubt());
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

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // what stands behind # names the page
  document.getElementById("main").focus();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button[data-order]");
  if (button) carryOut(button.dataset.order, button.dataset.subject, () => router.renew());
});
setInterval(() => !document.hidden && tick(), 1000);
live.look();
router.show();
