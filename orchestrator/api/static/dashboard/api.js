// Asking the server. Addresses count from the page's own, so a proxy may put all of it below any path.

import { heard } from "./clock.js";

export class Refused extends Error {
  /** `status` is 0 where no answer came. */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const PATIENCE = 20_000;

/** `path` with these parameters; those that are empty are left out. */
export function address(path, parameters = {}) {
  const given = Object.entries(parameters).filter(
    ([, value]) => value !== "" && value !== null && value !== undefined,
  );
  return given.length === 0 ? path : `${path}?${new URLSearchParams(given)}`;
}

/** The answer's JSON. Throws Refused, with what the server said where it said anything. */
export async function get(path, parameters) {
  return exchange("GET", address(path, parameters));
}

export async function post(path, body, headers) {
  return exchange("POST", path, body, headers);
}

export async function remove(path) {
  return exchange("DELETE", path);
}

async function exchange(method, path, body, headers = {}) {
  let answer;
  let told = null;
  try {
    answer = await fetch(path, {
      method,
      headers: body === undefined ? headers : { ...headers, "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(PATIENCE),
      cache: "no-store",
    });
    heard(answer.headers.get("Date"));
    if ((answer.headers.get("Content-Type") ?? "").includes("json")) told = await answer.json();
  } catch {
    throw new Refused("The server does not answer.", 0);
  }
  if (answer.ok) return told;
  throw new Refused(
    told?.detail ?? told?.message ?? `The server answered with status ${answer.status}.`,
    answer.status,
  );
}

/** A key under which an order may be sent again without being carried out twice. */
export function orderKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
}
