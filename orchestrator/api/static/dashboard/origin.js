// Which job one runs again, and what of its inputs is different.

import { h } from "./dom.js";
import { get } from "./api.js";
import { count, foreign } from "./format.js";
import { link } from "./router.js";
import { may } from "./session.js";

const NEEDS = "GET /v1/jobs/{id}/input-changes";
const FEW = 10; // files that are named
const CHANGES = { changed: " changed", new: " new", left_out: " left out", not_compared: " as long as before, not compared" };

/** How its inputs differ, as the API tells it, or {trouble}; null where it runs none again, or it may not be asked. */
export async function changesOf(job) {
  if (job.rerun_of === null || !may(NEEDS)) return null;
  try {
    return await get(`v1/jobs/${job.id}/input-changes`);
  } catch (error) {
    if (error.status === undefined) throw error;
    return { trouble: error.message };
  }
}

/** One line of it, if it runs any again. */
export function origin(job, changes) {
  if (job.rerun_of === null) return null;
  const earlier = h("a", { href: link(["jobs", job.rerun_of]) }, `job ${job.rerun_of}`);
  return h("p", { class: "deeds", "data-key": "origin" }, ...told(job, changes, earlier));
}

function told(job, changes, earlier) {
  if (changes === null) return ["Runs ", earlier, " again."];
  if (changes.trouble) return ["Runs ", earlier, " again; the inputs of both cannot be compared: ", foreign(changes.trouble), "."];
  if (changes.items.length === 0) return ["Runs ", earlier, " again with the same inputs."];
  const named = changes.items.slice(0, FEW);
  const more = changes.items.length - named.length + changes.more;
  return [
    "Changed from ",
    earlier,
    ": ",
    named.flatMap((one, n) => [n > 0 && ", ", ...differing(job, one)]),
    more > 0 && ` and ${count(more)} more`,
    ".",
  ];
}

/** A file that differs, with a way to what it is and to what it was. */
function differing(job, { path, change }) {
  const at = (id, text) => h("a", { href: link(["jobs", id], { file: path }) }, text);
  if (change === "left_out") return [at(job.rerun_of, foreign(path)), CHANGES.left_out];
  const before = change !== "new" && [" (", at(job.rerun_of, "before"), ")"];
  return [at(job.id, foreign(path)), CHANGES[change] ?? ` ${change}`, before];
}
