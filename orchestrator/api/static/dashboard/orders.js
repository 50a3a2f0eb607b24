// What a person orders: cancel, rerun, delete, drain, pause. Each is confirmed where it cannot be undone or
// may be given a reason, and its outcome is said where a screen reader hears it.

import { h } from "./dom.js";
import { orderKey, post, remove } from "./api.js";
import { foreign, nodeName, number, visible } from "./format.js";
import { link } from "./router.js";
import { may } from "./session.js";

const SHOWN = 12_000;
const LONGEST_REASON = 500;
const AT_ONCE = 4; // orders of many
const TOO_MANY = 429;

const ORDERS = {
  cancel: {
    needs: "POST /terminate/{id}",
    sure: (id) => [
      `Cancel job ${id}?`,
      "If it runs its processes are ended, and what it has written so far is kept.",
      `Cancel job ${id}`,
      "Keep it",
    ],
    many: (jobs) => [
      `Cancel ${jobs}?`,
      "The processes of those that run are ended. What they have written so far is kept.",
      `Cancel ${jobs}`,
      "Keep them",
    ],
    did: (jobs) => `${jobs} cancelled.`,
    each: (id) => post(`terminate/${encodeURIComponent(id)}`),
    async carry(id) {
      const told = await this.each(id);
      return told.status === "Killed" ? `Job ${id} is cancelled.` : `Job ${id}: ${told.message}`;
    },
  },
  rerun: {
    needs: "POST /v1/jobs/{id}/rerun",
    many: (jobs) => [
      `Run ${jobs} again?`,
      "Each becomes a new job of the same files.",
      `Run ${jobs} again`,
      "Do not run them",
    ],
    did: (jobs) => `${jobs} run again.`,
    each: (id) =>
      post(`v1/jobs/${encodeURIComponent(id)}/rerun`, undefined, { "Idempotency-Key": orderKey() }),
    async carry(id) {
      const job = await this.each(id);
      location.hash = link(["jobs", job.id]);
      return [`Job ${job.id} is queued; it runs job ${id} again.`, "good", job.id];
    },
  },
  delete: {
    needs: "DELETE /v1/jobs/{id}",
    sure: (id) => [
      `Delete the data of job ${id}?`,
      "Its files, results and logs are deleted and cannot be brought back. The job stays in the list.",
      "Delete the data",
      "Keep the data",
    ],
    many: (jobs) => [
      `Delete the data of ${jobs}?`,
      "Their files, results and logs are deleted and cannot be brought back. The jobs stay in the list.",
      "Delete the data",
      "Keep the data",
    ],
    did: (jobs) => `Data of ${jobs} deleted.`,
    each: (id) => remove(`v1/jobs/${encodeURIComponent(id)}`),
    async carry(id) {
      await this.each(id);
      return `The data of job ${id} is deleted.`;
    },
  },
  pause: {
    needs: "POST /v1/services/{name}/pause",
    sure: (name) => [
      `Pause service ${visible(name)}?`,
      "No more of its jobs are sent until it is resumed. Those that run go on.",
      "Pause",
      "Do not pause",
    ],
    reasoned: true,
    async carry(name, reason) {
      await post(`v1/services/${encodeURIComponent(name)}/pause`, reason ? { reason } : {});
      return `Service ${visible(name)} is paused.`;
    },
  },
  resume: {
    needs: "POST /v1/services/{name}/resume",
    async carry(name) {
      await post(`v1/services/${encodeURIComponent(name)}/resume`, {});
      return `Service ${visible(name)} goes on.`;
    },
  },
  drain: {
    needs: "POST /v1/nodes/{id}/drain",
    sure: (id) => [
      `Drain node ${visible(nodeName(id))}?`,
      "It gets no more jobs until it is undrained. Those that run there go on.",
      "Drain",
      "Do not drain",
    ],
    reasoned: true,
    async carry(id, reason) {
      await post(`v1/nodes/${encodeURIComponent(id)}/drain`, reason ? { reason } : {});
      return `Node ${visible(nodeName(id))} is draining.`;
    },
  },
  undrain: {
    needs: "POST /v1/nodes/{id}/undrain",
    async carry(id) {
      await post(`v1/nodes/${encodeURIComponent(id)}/undrain`, {});
      return `Node ${visible(nodeName(id))} takes jobs again.`;
    },
  },
};

/** Whether who is logged in may give it. */
export function mayOrder(order) {
  return may(ORDERS[order].needs);
}

/** A button for an order on a subject, or null where it may not be given. `label` is what is read aloud where
 * many buttons look the same. It never turns into that of another order under a finger that is on its way. */
export function button(order, subject, text, label) {
  return mayOrder(order)
    ? h(
        "button",
        {
          type: "button",
          "data-key": order,
          "data-order": order,
          "data-subject": subject,
          "aria-label": label,
        },
        text,
      )
    : null;
}

/** Ask where it has to be asked, carry it out, say what came of it; then `done()`. */
export async function carryOut(name, subject, done) {
  const order = ORDERS[name];
  if (!order) return;
  const answer = order.sure ? await confirmed(order.sure(subject), order.reasoned) : { reason: "" };
  if (!answer) return;
  try {
    say(...[await order.carry(subject, answer.reason)].flat());
  } catch (error) {
    say(error.message, "bad");
    if (error.status === undefined) throw error;
  }
  done();
}

/** The same for many jobs: asked for once, a few at a time, and what is refused is said of the first. */
export async function carryOutMany(name, ids, done) {
  const order = ORDERS[name];
  if (!(await confirmed(order.many(number(ids.length, "job"))))) return;
  const left = [...ids];
  const refused = [];
  const work = async () => {
    for (let id = left.shift(); id !== undefined; id = left.shift()) {
      try {
        await order.each(id);
      } catch (error) {
        if (error.status === undefined) throw error;
        if (error.status === TOO_MANY && error.wait > 0) {
          left.unshift(id);
          await new Promise((resolve) => setTimeout(resolve, 1000 * error.wait));
        } else {
          refused.push(`job ${id}: ${error.message}`);
        }
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  const told = order.did(number(ids.length - refused.length, "job"));
  if (refused.length === 0) say(told);
  else say(`${told} ${number(refused.length, "job")} not; ${refused[0]}`, "bad");
  done();
}

/** A job no longer waits: what is said of that goes. */
export function unqueued(id) {
  document.querySelector(`#said [data-queued="${id}"]`)?.remove();
}

let hiding = 0;

/** Say it to everybody: shown for a while, and read aloud. `queued`: a job of which it is true while it waits. */
export function say(text, kind = "good", queued = null) {
  const place = document.getElementById("said");
  const shown = h("p", { class: kind, "data-queued": queued }, foreign(text));
  place.replaceChildren(shown);
  clearTimeout(hiding);
  hiding = setTimeout(() => shown.remove(), SHOWN);
}

/** `{reason}` when the person says yes: one line, or "". Null for no: a button, Escape, or another page. The
 * focus goes back to where it was. */
export function confirmed([question, explained, yes, no], reasoned) {
  return new Promise((resolve) => {
    const sure = h("button", { type: "submit", class: "danger" }, foreign(yes));
    const not = h("button", { type: "button" }, no);
    const why = h("input", { type: "text", maxlength: LONGEST_REASON, autocomplete: "off" });
    const form = h(
      "form",
      null,
      h("h2", { id: "question" }, foreign(question)),
      h("p", { id: "explained" }, explained),
      reasoned && h("label", { class: "reason" }, "Reason (optional)", why),
      h("div", { class: "buttons" }, not, sure),
    );
    const dialog = h("dialog", { "aria-labelledby": "question", "aria-describedby": "explained" }, form);
    let answer = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      answer = { reason: line(why.value) };
      dialog.close();
    });
    not.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
    (reasoned ? why : not).focus();
  });
}

/** On one line: what was pasted may have tabs and the like in it. */
function line(text) {
  return text.replace(/[\s\u0000-\u001f\u007f-\u009f]+/g, " ").trim();
}
