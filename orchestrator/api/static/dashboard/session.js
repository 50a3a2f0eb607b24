// Who is logged in, and what they may ask for.

import { get, login, post, remove } from "./api.js";

let who = null; // as the server tells it; null: nobody, as far as is known

/** Whether they may ask for it: a method and a path, as the API's document has them. */
export function may(what) {
  return who !== null && who.may.includes(what);
}

/** What stands at a path that has no variable; null where they may not ask for it. */
export async function getIfAllowed(path, parameters) {
  return may(`GET /${path}`) ? get(path, parameters) : null;
}

export function current() {
  return who;
}

/** Ask the server. Throws Refused, of status 401 where nobody is logged in. */
export async function ask() {
  take(await get("v1/session"));
  return who;
}

/** Throws Refused, of status 401 where there is no such token. */
export async function logIn(token) {
  await post("v1/session", { token });
  try {
    return await ask();
  } catch (error) {
    if (error.status === 401) error.message = "The browser has not kept the login: does it refuse cookies?";
    throw error;
  }
}

/** Nothing new is asked for meanwhile; what was asked for before is answered as it may be. */
export async function logOut() {
  login.turn += 1;
  await remove("v1/session");
  forget();
}

export function forget() {
  take(null);
}

function take(told) {
  who = told;
  login.token = told?.session_token ?? null;
  login.turn += 1;
}
