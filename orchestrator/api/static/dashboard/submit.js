// The form that hands a job in: its files, its service, and what that allows it. It may begin with what another
// job was given.

import { h, morphChildren } from "./dom.js";
import { address, get, orderKey, upload } from "./api.js";
import { bytes, count, duration, foreign, number, percent, time, visible } from "./format.js";
import { confirmed, say } from "./orders.js";
import { link } from "./router.js";
import { current } from "./session.js";

const SCRIPT = "run.sh";
const LONGEST_SCRIPT = 1 << 20; // bytes that are edited in the page
const NO_NODE = "No node is ready; the job will wait.";
const PAGE = 500;
const FEW = 10; // files that are named
const TOLD = [
  { name: "name", label: "Name", hint: "what it is called in lists", maxlength: 200 },
  { name: "tags", label: "Tags", hint: "to find it by; commas between" },
];
// Each with what the service allows, and how that is written.
const LIMITED = [
  ["max_runtime", "Time limit", "seconds, or as 2h 30m", (one) => one.max_runtime_seconds, duration],
  ["memory", "Memory", "as 4G", (one) => one.limits.memory_bytes, bytes],
  ["cpu_time", "CPU time", "seconds, or as 2h 30m", (one) => one.limits.cpu_seconds, duration],
  ["processes", "Processes", "at once, with threads", (one) => one.limits.processes, count],
  ["file_size", "Size of a file", "as 2G", (one) => one.limits.file_bytes, bytes],
  ["open_files", "Open files", "of each process", (one) => one.limits.open_files, count],
  ["disk", "Disk", "as 10G", (one) => one.limits.disk_bytes, bytes],
];
// What is asked of a cluster, each with what the service allows; where that is nothing the field is not shown.
const ASKED = [
  ["partition", "Partition", (one) => one.batch_allowed.partitions.join(", ")],
  ["account", "Account", (one) => one.batch_allowed.accounts.join(", ")],
  ["qos", "QoS", (one) => one.batch_allowed.qos.join(", ")],
  ["cpus", "CPUs", ({ batch_allowed: { max_cpus: most } }) => (most ? `at most ${count(most)}` : "")],
  ["gpus", "GPUs", ({ batch_allowed: { max_gpus: most } }) => (most.length ? `at most ${most.join(" or ")}` : "")],
];
const PLACED = [
  { name: "requires", label: "Labels of its node", hint: "as gpu=a100,ssd" },
  { name: "callback_url", label: "Callback URL", hint: "is told when the job has ended", type: "url" },
];

// What was written and not handed in, while the tab lives: its fields also when the page is loaded anew, its files
// while it is not, for no page may read them again by itself.
const DRAFT = "draft";
const MOST_DRAFT = 1 << 21; // characters; a tab's storage has room for more
let chosen = null; // {at, files} of the draft

export function submitPage(given) {
  const from = /^[1-9][0-9]{0,9}$/.test(given.get("from") ?? "") ? Number(given.get("from")) : null;
  const files = new Map(); // by path: {size, blob} of this machine, or {size, url} of the other job
  let services = [];
  let key = orderKey(); // of what is in the form: sent twice, it is one job
  let sending = null;
  let boxed = false; // a script that came as a file stands in the box
  let written = false; // it is more than what the page began with

  const listed = h("ul", { class: "picked", "aria-label": "Files" });
  const total = h("p", { class: "how", role: "status" });
  const service = h("select", { name: "service", required: true });
  const standing = h("p", { class: "how", role: "status" });
  const script = h("textarea", { name: "script", rows: 8, spellcheck: "false", autocomplete: "off" });
  const box = labelled(`Script (${SCRIPT})`, script, "what is run, by bash, in a directory with the files");
  const limits = h("div", { class: "fields" });
  const missing = h("span", { role: "status" });
  const anew = h("button", { type: "button" }, "Begin anew");
  const left = h("p", { class: "buttons", hidden: true }, missing, anew);
  const wrong = h("p", { class: "trouble", role: "alert", hidden: true });
  const send = h("button", { type: "submit", class: "first" }, "Submit");
  const far = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Sent so far" });
  const zone = h(
    "fieldset",
    { class: "zone" },
    h("legend", null, "Files"),
    h("p", null, "Drop files or a folder here, or choose them:"),
    h(
      "div",
      { class: "fields" },
      labelled("Files", h("input", { type: "file", multiple: true, name: "files" })),
      labelled("A folder", h("input", { type: "file", webkitdirectory: true, name: "folder" })),
    ),
    listed,
    total,
  );
  const { name: who, user } = current();
  const at = `${who} ${from ?? ""}`;
  const form = h(
    "form",
    { class: "submit", "aria-label": "Submit a job" },
    h(
      "div",
      { class: "fields" },
      labelled("Service", service),
      user === null &&
        labelled(
          "User",
          h("input", { name: "user_id", required: true, inputmode: "numeric", pattern: "-?[0-9]{1,19}", title: "A whole number", value: "0" }),
          "whose job it is, a number",
        ),
      TOLD.map(field),
    ),
    standing,
    left,
    box,
    zone,
    h("details", null, h("summary", null, "Limits and place"), limits, h("div", { class: "fields" }, PLACED.map(field))),
    wrong,
    h("p", { class: "buttons" }, send, far),
  );

  function field({ name, label, hint, ...attributes }) {
    return labelled(label, h("input", { name, type: "text", autocomplete: "off", ...attributes }), hint);
  }

  /** What the chosen service allows. */
  function allowed() {
    const one = services.find(({ name }) => name === service.value);
    if (!one) return;
    morphChildren(
      standing,
      one.paused === null
        ? [one.nodes.ready === 0 ? h("span", { class: "warned" }, NO_NODE) : h("span", null, nodesReady(one)), ...waits(one)]
        : [
            h("span", { class: "bad" }, "Paused since ", time(one.paused_since), ": ", foreign(one.paused)),
            document.createTextNode(" The job waits until the service is resumed."),
          ],
    );
    for (const [name, , hint, most, write] of LIMITED) {
      const told = most(one) ? `${hint}; at most ${write(most(one))}` : hint;
      form.elements[name].closest(".field").querySelector("small").textContent = told;
    }
    for (const [name, , told] of ASKED) {
      const field_of = form.elements[name].closest(".field");
      field_of.hidden = told(one) === "";
      field_of.querySelector("small").textContent = told(one);
    }
  }

  limits.append(...LIMITED.map(([name, label, hint]) => field({ name, label, hint })));
  limits.append(...ASKED.map(([name, label]) => field({ name, label, hint: "" })));

  function changed() {
    key = orderKey();
    wrong.hidden = true;
    for (const one of form.querySelectorAll("[aria-invalid]")) one.removeAttribute("aria-invalid");
    written = true;
  }

  function keep() {
    if (!written) return;
    const values = Object.fromEntries(
      [...form.elements].filter((one) => one.name && one.type !== "file").map((one) => [one.name, one.value]),
    );
    const draft = JSON.stringify({ at, values, paths: [...files.keys()] });
    if (draft.length > MOST_DRAFT) return;
    sessionStorage.setItem(DRAFT, draft);
    chosen = { at, files };
  }

  function forget() {
    written = false;
    left.hidden = true;
    sessionStorage.removeItem(DRAFT);
    chosen = null;
  }

  /** The form as it was left, if it was. */
  function restore() {
    const draft = JSON.parse(sessionStorage.getItem(DRAFT));
    if (written || draft?.at !== at) return;
    written = true;
    for (const [name, value] of Object.entries(draft.values)) if (form.elements[name]) form.elements[name].value = value;
    if (chosen?.at === at) {
      files.clear();
      for (const [path, file] of chosen.files) files.set(path, file);
    } else {
      for (const path of files.keys()) if (!draft.paths.includes(path)) files.delete(path);
    }
    const lost = draft.paths.filter((path) => !files.has(path));
    const more = lost.length > FEW ? " and more" : "";
    const again = lost.length > 0 ? ` Choose these files again: ${visible(lost.slice(0, FEW).join(", "))}${more}.` : "";
    missing.textContent = `The form is as you left it.${again}`;
    left.hidden = false;
    show();
  }

  async function add(found) {
    changed();
    for (const [path, blob] of found) {
      const text = path === SCRIPT && blob.size <= LONGEST_SCRIPT ? await blob.text() : null;
      if (path === SCRIPT && !(await replaces(text))) continue;
      files.delete(path);
      if (text === null) files.set(path, { size: blob.size, blob });
      else script.value = text;
      boxed = text !== null || (boxed && path !== SCRIPT);
    }
    show();
  }

  /** Whether the file's script takes the place of what stands in the box; nothing that was written goes unasked. */
  async function replaces(text) {
    if (files.has(SCRIPT) || script.value.trim() === "" || script.value === text) return true;
    const answer = await confirmed([
      `Replace the script that stands in the box by ${SCRIPT}?`,
      `Among the files is one called ${SCRIPT}: it would be run instead of what is written in the box.`,
      `Replace it by ${SCRIPT}`,
      "Keep what is written",
    ]);
    return answer !== null;
  }

  function show() {
    const sizes = [...files.values()].reduce((sum, one) => sum + one.size, 0);
    box.hidden = files.has(SCRIPT);
    total.textContent = [
      files.size > 0 && `${number(files.size, "file")}, ${bytes(sizes)}.`,
      boxed && `${SCRIPT} is shown in the script box.`,
    ]
      .filter(Boolean)
      .join(" ");
    morphChildren(
      listed,
      [...files].map(([path, { size, url }]) =>
        h(
          "li",
          { "data-key": path },
          foreign(path),
          " ",
          h("small", null, bytes(size), url && ` of job ${from}`),
          " ",
          h("button", { type: "button", "data-path": path, "aria-label": `Leave out ${path}` }, "Leave out"),
        ),
      ),
    );
  }

  /** Say why. What the server says begins with the name of a field that is wrong: it is called as it is here. */
  function refuse(why) {
    const [, name] = /^([a-z_]+)\b/.exec(why) ?? [];
    const input = form.elements[name];
    const label = input?.labels?.[0]?.firstChild.textContent.trim();
    wrong.replaceChildren(foreign(label ? label + why.slice(name.length) : why));
    wrong.hidden = false;
    if (!label) return;
    input.setAttribute("aria-invalid", "true");
    for (const folded of form.querySelectorAll("details")) if (folded.contains(input)) folded.open = true;
    input.focus();
  }

  async function submit() {
    if (!files.has(SCRIPT) && script.value.trim() === "") {
      refuse(`There is nothing to run: write a script, or add a file ${SCRIPT}.`);
      return;
    }
    const body = new FormData();
    const told = ["user_id", ...[...TOLD, ...PLACED].map((one) => one.name), ...[...LIMITED, ...ASKED].map(([name]) => name)];
    body.append("user_id", String(user ?? form.elements.user_id.value.trim()));
    body.append("service", service.value);
    for (const name of told.slice(1)) {
      const value = form.elements[name].value.trim();
      if (value !== "" && !form.elements[name].closest(".field").hidden) body.append(name, plain(name, value));
    }
    if (from !== null) body.append("rerun_of", String(from));
    send.disabled = true;
    wrong.hidden = true;
    sending = new AbortController();
    const { signal } = sending;
    try {
      for (const [path, { blob, url }] of files) body.append("file", blob ?? (await fetched(url, signal)), path);
      if (!files.has(SCRIPT)) body.append("file", new Blob([script.value]), SCRIPT);
      far.hidden = false;
      const job = await upload("upload", body, { "Idempotency-Key": key }, signal, (share) => {
        far.value = share;
        far.title = percent(share);
      });
      forget();
      say(`Job ${job.id} is queued.`, "good", job.id);
      location.hash = link(["jobs", job.id]);
    } catch (error) {
      if (signal.aborted) return;
      refuse(error.message);
      if (error.status === undefined) throw error;
    } finally {
      send.disabled = false;
      far.hidden = true;
    }
  }

  // The whole page takes them: what falls beside the box would be opened by the browser in its place.
  const whole = new AbortController();
  const listen = (what, heard) =>
    document.addEventListener(what, (event) => event.dataTransfer?.types.includes("Files") && heard(event), {
      signal: whole.signal,
    });
  listen("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  listen("dragleave", (event) => event.relatedTarget === null && zone.classList.remove("over"));
  listen("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (form.inert || document.querySelector("dialog")) return;
    dropped(event.dataTransfer).then(add, (error) => refuse(`A file cannot be read: ${error.message}`));
  });
  window.addEventListener("pagehide", keep, { signal: whole.signal });
  anew.addEventListener("click", () => {
    forget();
    form.reset();
    files.clear();
    boxed = false;
    ready = false;
    form.inert = from !== null;
    page.again();
  });
  zone.addEventListener("change", ({ target }) => {
    const picked = [...target.files].map((one) => [below(one.webkitRelativePath) || one.name, one]);
    target.value = "";
    add(picked);
  });
  listed.addEventListener("click", (event) => {
    const { path } = event.target.closest("button")?.dataset ?? {};
    if (path === undefined) return;
    files.delete(path);
    changed();
    show();
    zone.querySelector("input").focus();
  });
  service.addEventListener("change", allowed);
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });

  /** What the other job was given, as it came. */
  async function take() {
    const [job, inputs] = await Promise.all([get(`v1/jobs/${from}`), inputsOf(from)]);
    const values = {
      user_id: job.user_id,
      name: job.name,
      tags: job.tags.join(","),
      max_runtime: job.max_runtime_seconds,
      memory: job.limits.memory_bytes,
      cpu_time: job.limits.cpu_seconds,
      processes: job.limits.processes,
      file_size: job.limits.file_bytes,
      open_files: job.limits.open_files,
      disk: job.limits.disk_bytes,
      ...job.batch_request,
      requires: job.requires,
      callback_url: job.callback?.url,
    };
    for (const [name, value] of Object.entries(values)) {
      const none = value === null || value === undefined || (value === 0 && name !== "user_id");
      if (form.elements[name]) form.elements[name].value = none ? "" : String(value);
    }
    service.value = job.service;
    for (const { path, size, url } of inputs) files.set(path, { size, url });
    const own = files.get(SCRIPT);
    if (own && own.size <= LONGEST_SCRIPT) {
      script.value = await (await fetched(own.url)).text();
      files.delete(SCRIPT);
    }
    show();
  }

  async function inputsOf(id) {
    const items = [];
    let cursor = null;
    do {
      const page = await get(`v1/jobs/${id}/files`, { inputs: 1, limit: PAGE, cursor });
      items.push(...page.items.filter((one) => one.kind === "file"));
      cursor = page.next;
    } while (cursor);
    return items.map(({ path, size, url }) => ({
      path,
      size,
      url: address(`v1/jobs/${id}/files/${url}`, { inputs: 1 }),
    }));
  }

  let ready = false;
  // What was written before the other job's inputs are there would be lost.
  form.inert = from !== null;
  const title = from === null ? "Submit a job" : `Run job ${from} again with changes`;
  const page = {
    title,
    at: "submit",
    view: h("section", null, h("h1", { tabindex: -1 }, title), form),
    async refresh() {
      if (ready) return;
      services = (await get("v1/services")).items;
      service.replaceChildren(...services.map(({ name }) => h("option", { value: name }, name)));
      try {
        if (from !== null) await take();
        else show();
        restore();
      } finally {
        form.inert = false;
      }
      allowed();
      ready = true;
    },
    pace: Infinity,
    close() {
      sending?.abort();
      whole.abort();
      keep();
    },
  };
  return page;
}

function nodesReady(one) {
  return `${number(one.nodes.ready, "node")} ${one.nodes.ready === 1 ? "is" : "are"} ready.`;
}

function waits(one) {
  const many = one.jobs.Queued ?? 0;
  return many === 0 ? [] : [document.createTextNode(` ${number(many, "job")} ${many === 1 ? "waits" : "wait"}.`)];
}

const TIMES = new Set(["max_runtime", "cpu_time"]);
const SIZES = new Set(["memory", "file_size", "disk"]);

/** As the server takes it: seconds of what people write of a time, `4G` of what they write of a size. What is
 * neither stays as it is, for the server to say what is wrong with it. */
function plain(name, value) {
  if (TIMES.has(name)) {
    const parts = /^(?:([0-9.]+) *d)? *(?:([0-9.]+) *h)? *(?:([0-9.]+) *m(?:in)?)? *(?:([0-9.]+) *s)?$/i.exec(value);
    const [days, hours, minutes, seconds] = (parts ?? []).slice(1).map((part) => Number(part ?? 0));
    const sum = 86_400 * days + 3600 * hours + 60 * minutes + seconds;
    return Number.isFinite(sum) ? String(Math.round(1000 * sum) / 1000) : value;
  }
  return SIZES.has(name) ? value.replace(/^([0-9.]+) *([kmgt]?)i?b?$/i, (_, many, unit) => many + unit.toUpperCase()) : value;
}

/** A field with its label, and a hint below. */
function labelled(text, input, hint = "") {
  const id = `hint-${input.getAttribute("name")}`;
  input.setAttribute("aria-describedby", id);
  return h("div", { class: "field" }, h("label", null, `${text} `, input), h("small", { id }, hint));
}

async function fetched(url, signal) {
  const answer = await fetch(url, { cache: "no-store", signal });
  if (!answer.ok) await get(url); // the same question once more tells why, in the server's words
  return answer.blob();
}

/** A path without the folder that was chosen, which is the job's directory. */
function below(path) {
  return path.split("/").slice(1).join("/");
}

/** Paths with their files. One folder alone is the job's directory. */
async function dropped(transfer) {
  const items = [...transfer.items].filter((one) => one.kind === "file");
  const entries = items.map((one) => one.webkitGetAsEntry()).filter(Boolean);
  // What comes from another page has a file and no place on a disk.
  const found = items.filter((one) => !one.webkitGetAsEntry()).map((one) => [one.getAsFile().name, one.getAsFile()]);
  const walk = async (entry, path) => {
    if (entry.isFile) found.push([path, await new Promise((taken, failed) => entry.file(taken, failed))]);
    else for (const inner of await inside(entry)) await walk(inner, path ? `${path}/${inner.name}` : inner.name);
  };
  const alone = entries.length === 1 && entries[0].isDirectory;
  for (const entry of entries) await walk(entry, alone ? "" : entry.name);
  return found;
}

async function inside(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((taken, failed) => reader.readEntries(taken, failed));
    if (some.length === 0) return found;
    found.push(...some);
  }
}
