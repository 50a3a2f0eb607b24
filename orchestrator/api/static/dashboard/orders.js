// What a person orders: cancel, rerun, delete, drain, pause. Each is confirmed where it cannot be undone, and
// its outcome is said where a screen reader hears it.

import { h } from "./dom.js";
import { orderKey, post, remove } from "./api.js";
import { foreign, visible } from "./format.js";
import { link } from "./router.js";

const SHOWN = 12_000;

const ORDERS = {
  cancel: {
    sure: (id) => [
      `Cancel job ${id}?`,
      "Its processes are ended. What it has written so far is kept.",
      `Cancel job ${id}`,
      "Let it go on",
    ],
    async carry(id) {
      const told = await post(`terminate/${encodeURIComponent(id)}`);
      return told.status === "Killed" ? `Job ${id} is terminated.` : `Job ${id}: ${told.message}`;
    },
  },
  rerun: {
    async carry(id) {
      const job = await post(`v1/jobs/${encodeURIComponent(id)}/rerun`, undefined, {
        "Idempotency-Key": orderKey(),
      });
      location.hash = link(["jobs", job.id]);
      return `Job ${job.id} is queued; it runs job ${id} again.`;
    },
  },
  delete: {
    sure: (id) => [
      `Delete the data of job ${id}?`,
      "Its files, results and logs are deleted and cannot be brought back. The job stays in the list.",
      "Delete the data",
      "Keep the data",
    ],
    async carry(id) {
      await remove(`v1/jobs/${encodeURIComponent(id)}`);
      return `The data of job ${id} is deleted.`;
    },
  },
  pause: {
    sure: (name) => [
      `Pause service ${visible(name)}?`,
      "No more of its jobs are sent until it is resumed. Those that run go on.",
      "Pause",
      "Do not pause",
    ],
    async carry(name) {
      await post(`v1/services/${encodeURIComponent(name)}/pause`, {});
      return `Service ${visible(name)} is paused.`;
    },
  },
  resume: {
    async carry(name) {
      await post(`v1/services/${encodeURIComponent(name)}/resume`, {});
      return `Service ${visible(name)} goes on.`;
    },
  },
  drain: {
    sure: (id) => [
      `Drain node ${visible(id)}?`,
      "It gets no more jobs until it is undrained. Those that run there go on.",
      "Drain",
      "Do not drain",
    ],
    async carry(id) {
      await post(`v1/nodes/${encodeURIComponent(id)}/drain`, {});
      return `Node ${visible(id)} is draining.`;
    },
  },
  undrain: {
    async carry(id) {
      await post(`v1/nodes/${encodeURIComponent(id)}/undrain`, {});
      return `Node ${visible(id)} takes jobs again.`;
    },
  },
};

/** A button for an order on a subject. `label` is what is read aloud where many buttons look the same. */
export function button(order, subject, text, label) {
  return h(
    "button",
    { type: "button", "data-order": order, "data-subject": subject, "aria-label": label },
    text,
  );
}

/** Ask where it has to be asked, carry it out, say what came of it; then `done()`. */
export async function carryOut(name, subject, done) {
  const order = ORDERS[name];
  if (!order || (order.sure && !(await confirmed(...order.sure(subject))))) return;
  try {
    say(await order.carry(subject));
  } catch (error) {
    say(error.message, "bad");
    if (error.status === undefined) throw error;
  }
  done();
}

let hiding = 0;

/** Say it to everybody: shown for a while, and read aloud. */
export function say(text, kind = "good") {
  const place = document.getElementById("said");
  const shown = h("p", { class: kind }, foreign(text));
  place.replaceChildren(shown);
  clearTimeout(hiding);
  hiding = setTimeout(() => shown.remove(), SHOWN);
}

/** Whether the person says yes. Escape is no. The focus goes back to where it was. */
function confirmed(question, explained, yes, no) {
  return new Promise((resolve) => {
    const sure = h("button", { type: "button", class: "danger" }, foreign(yes));
    const not = h("button", { type: "button" }, no);
    const dialog = h(
      "dialog",
      { "aria-labelledby": "question", "aria-describedby": "explained" },
      h("h2", { id: "question" }, foreign(question)),
      h("p", { id: "explained" }, explained),
      h("div", { class: "buttons" }, not, sure),
    );
    let answer = false;
    sure.addEventListener("click", () => {
      answer = true;
      dialog.close();
    });
    not.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
    not.focus();
  });
}
