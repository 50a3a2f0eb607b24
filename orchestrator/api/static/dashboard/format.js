// How numbers, times and foreign texts are written.

import { now } from "./clock.js";
import { h, NOTHING } from "./dom.js";

// By hand: what the language has for it reads its tables of all locales at first, which takes longer than a page does.
const THOUSANDS = /\B(?=(\d{3})+(?!\d))/g;
const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]; // as limits are written, and what the server says of them

export function count(number) {
  return number === null || number === undefined ? NOTHING : String(number).replace(THOUSANDS, ",");
}

/** "1 file", "2 files". */
export function number(many, what) {
  return `${count(many)} ${what}${many === 1 ? "" : "s"}`;
}

/** How a node is called; of an id of 32 digits the first 8. */
export function nodeName(name) {
  return /^[0-9a-f]{32}$/.test(name) ? name.slice(0, 8) : name;
}

export function bytes(number) {
  if (number === null || number === undefined) return NOTHING;
  let unit = 0;
  let value = number;
  while (value >= 1023.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.5 || Number.isInteger(value) ? 0 : 1;
  return `${value.toFixed(digits)} ${number === 1 ? "byte" : UNITS[unit]}`;
}

/** Seconds, as people say them. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  if (seconds > 0 && seconds < 1) return `${Math.max(1, Math.round(1000 * seconds))} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const whole = Math.floor(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

const LIMITS = {
  memory_bytes: ["memory", bytes],
  cpu_seconds: ["CPU time", duration],
  processes: ["processes", count],
  file_bytes: ["a file", bytes],
  open_files: ["open files", count],
  disk_bytes: ["disk", bytes],
};

/** What a job may use, or nothing if it has no limit. */
export function limits(given) {
  const found = Object.entries(LIMITS).filter(([field]) => given[field] !== undefined);
  return found.map(([field, [name, write]]) => `${name} ${write(given[field])}`).join(", ") || null;
}

const ASKED = ["partition", "account", "qos", "cpus", "gpus"];

/** What a job asks of a batch system, or nothing. */
export function asked(given) {
  const found = ASKED.filter((name) => given?.[name]);
  return found.map((name) => `${name} ${given[name]}`).join(", ") || null;
}

/** Seconds from one time as the API writes it to another, or to now. */
export function between(from, to) {
  return Math.max(0, ((to ? Date.parse(to) : now()) - Date.parse(from)) / 1000);
}

export function percent(share) {
  return `${Math.round(100 * share)} %`;
}

function two(number) {
  return String(number).padStart(2, "0");
}

/** The hour and minute of a Date where the reader is: "09:05". */
export function minute(at) {
  return `${two(at.getHours())}:${two(at.getMinutes())}`;
}

function day(at) {
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

/** A time with its date in the title; in lists without the date where it is today's. */
export function time(text) {
  if (!text) return NOTHING;
  const at = new Date(text);
  const clock = `${minute(at)}:${two(at.getSeconds())}`;
  const whole = `${day(at)} ${clock}`;
  return h("time", { datetime: text, title: whole }, day(at) === day(new Date()) ? clock : whole);
}

/** What is likely, in the words of a sentence: from and until when. */
export function expected(period) {
  const clock = (text, without) => {
    const at = new Date(text);
    const told = day(without ? new Date(without) : new Date());
    return day(at) === told ? minute(at) : `${day(at)} ${minute(at)}`;
  };
  const earliest = clock(period.earliest);
  if (period.latest === null) return `after ${earliest}`;
  if (earliest === clock(period.latest)) return `at about ${earliest}`;
  return `between ${earliest} and ${clock(period.latest, period.earliest)}`;
}

/** A duration that goes on: from then until now. `tick` renews all that are shown. */
export function lasting(since) {
  return h("span", { "data-since": since, "data-own": true }, duration(between(since)));
}

export function tick() {
  for (const shown of document.querySelectorAll("[data-since]")) {
    shown.textContent = duration(between(shown.dataset.since));
  }
}

// Controls, and what turns the direction of text around: visible, so that no name looks like another.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

function pictured(character) {
  const code = character.charCodeAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code === 0x7f) return "\u2421";
  return `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
}

/** A text from outside, with nothing in it that is not seen. */
export function visible(text) {
  return String(text).replace(HIDDEN, pictured);
}

/** The same as an element of its own direction, so that it changes nothing around it. */
export function foreign(text) {
  return h("bdi", null, visible(text));
}

/** A name that stands on one line: cut where it is too long, whole in its title. */
export function cut(name) {
  return h("span", { class: "cut", title: visible(name) }, foreign(name));
}
