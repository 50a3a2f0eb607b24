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
  throw refusal(turn, answer.status, told, answer.headers.get("Retry-After"));
}

/** A form with files, which may take long. `progressed(share)`: how much of it is sent. Answers and throws as
 * `post`. */
export function upload(path, form, headers, signal, progressed) {
  const { turn } = login;
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.responseType = "json";
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    if (login.token) request.setRequestHeader("X-Session-Token", login.token);
    request.upload.addEventListener("progress", ({ loaded, total }) => progressed(loaded / Math.max(1, total)));
    request.addEventListener("load", () => {
      const { status, response } = request;
      if (status >= 200 && status < 300) resolve(response);
      else reject(refusal(turn, status, response, request.getResponseHeader("Retry-After")));
    });
    for (const end of ["error", "abort"]) {
      request.addEventListener(end, () => reject(new Refused("The server does not answer.", 0)));
    }
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

/** What an answer means that is no success. `turn`: the login under which it was asked for. */
function refusal(turn, status, told, wait) {
  if (turn === login.turn && status === 401 && told?.code !== "bad_token") {
    login.ended();
    return new Refused("Nobody is logged in any more.", 401, told?.code);
  }
  // The routes of the published contract tell no code.
  if (told?.code === "no_session_token" || /X-Session-Token/.test(told?.message ?? "")) {
    login.doubted();
    return new Refused("Somebody has logged in anew, in another window. Nothing was ordered.", 403);
  }
  return new Refused(
    told?.detail ?? told?.message ?? `The server answered with status ${status}.`,
    status,
    told?.code,
    Number(wait ?? 0),
  );
}

/** A key under which an order may be sent again without being carried out twice. */
export function orderKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
}
