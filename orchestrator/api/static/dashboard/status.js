// The states of jobs and nodes: a word and a sign each, for colour alone says nothing to many.

import { h } from "./dom.js";

const SIGNS = {
  Queued: ["○", "waiting"],
  Processing: ["◔", "moving"],
  Submitted: ["◔", "moving"],
  Prepared: ["◑", "moving"],
  Running: ["▶", "running"],
  Locked: ["◼", "moving"],
  Completed: ["✔", "good"],
  Failed: ["✖", "bad"],
  Invalid: ["✖", "bad"],
  Killed: ["◼", "stopped"],
  Cleaned: ["∅", "stopped"],
  Unknown: ["?", "stopped"],
  joining: ["◔", "moving"],
  ready: ["✔", "good"],
  suspect: ["!", "warning"],
  lost: ["✖", "bad"],
  draining: ["↓", "warning"],
  drained: ["∅", "stopped"],
  set_aside: ["!", "bad"],
};

export const STATUSES = [
  "Queued",
  "Processing",
  "Submitted",
  "Prepared",
  "Running",
  "Locked",
  "Completed",
  "Failed",
  "Invalid",
  "Killed",
  "Cleaned",
];
export const UNDER_WAY = new Set(["Processing", "Submitted", "Prepared", "Running", "Locked"]);
/** It has not begun. */
export const BEFORE = new Set(["Queued", "Processing", "Submitted", "Prepared"]);
export const ENDED = new Set(["Completed", "Failed", "Invalid", "Killed"]);
export const OVER = new Set([...ENDED, "Cleaned"]);

/** How a status looks: one of a few kinds. */
export function kindOf(status) {
  return (SIGNS[status] ?? SIGNS.Unknown)[1];
}

export function badge(status) {
  const [sign, kind] = SIGNS[status] ?? SIGNS.Unknown;
  return h(
    "span",
    { class: `badge ${kind}` },
    h("span", { "aria-hidden": "true" }, sign),
    " ",
    String(status).replace("_", " "),
  );
}
