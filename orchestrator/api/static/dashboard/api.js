// Asking the server. Addresses count from the page's own, so a proxy may put all of it below any path.

import { heard } from "./clock.js";

export class Refused extends Error {
  /** `status` is 0 where no answer came; `wait`: seconds after which to ask again, where the server says so. */
  constructor(message, status, code = "", wait = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.wait = wait;
  }
}

/** Of who is logged in (session.js) what requests need. `token` goes with each order; `turn` counts logins, for
 * an answer may come that was asked for before the last one. `ended()`: nobody is logged in any more;
 * `doubted()`: it may be so, or somebody else is. */
export const login = { token: null, turn: 0, ended() {}, doubted() {} };

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
  const { turn } = login;
  if (method !== "GET" && login.token) headers = { ...headers, "X-Session-Token": login.token };
  if (body !== undefined) headers = { ...headers, "Content-Type": "application/json" };
  try {
    answer = await fetch(path, {
      method,
      headers,
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
  if (turn === login.turn && answer.status === 401 && told?.code !== "bad_token") {
    login.ended();
    throw new Refused("Nobody is logged in any more.", 401, told?.code);
  }
  // The routes of the published contract tell no code.
  if (told?.code === "no_session_token" || /X-Session-Token/.test(told?.message ?? "")) {
    login.doubted();
    throw new Refused("Somebody has logged in anew, in another window. Nothing was ordered.", 403);
  }
  throw new Refused(
    told?.detail ?? told?.message ?? `The server answered with status ${answer.status}.`,
    answer.status,
    told?.code,
    Number(answer.headers.get("Retry-After") ?? 0),
  );
}

/** A key under which an order may be sent again without being carried out twice. */
export function orderKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
}
