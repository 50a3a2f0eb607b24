// A file of a job, shown in the page: text with line numbers, tables, pictures, PDF, JSON, molecules. Whatever is
// in it, text, a picture or a frame of its own is all that it can become.

import { h } from "./dom.js";
import { get } from "./api.js";
import { bytes, count, foreign, visible } from "./format.js";

const MOST_TEXT = 2 << 20; // as the server has it
const MOST_PICTURE = 32 << 20;
const ROWS = 1000; // of a table
const LINES = 20_000; // of a text
const PATIENCE = 30_000;

const KINDS = {
  picture: ["png", "jpg", "jpeg", "gif", "webp"],
  drawing: ["svg"], // a picture that is text
  pdf: ["pdf"],
  table: ["csv", "tsv"],
  json: ["json"],
  molecule: ["pdb", "cif", "ent", "mmcif"],
  // What nobody reads.
  packed: ["zip", "gz", "bz2", "xz", "zst", "tar", "tgz", "7z", "npy", "npz", "h5", "hdf5", "pkl", "so", "o", "exe"],
};

function extension(path) {
  const name = path.slice(path.lastIndexOf("/") + 1);
  return name.includes(".") ? name.slice(name.lastIndexOf(".") + 1).toLowerCase() : "";
}

function kindOf(path) {
  const found = Object.entries(KINDS).find(([, extensions]) => extensions.includes(extension(path)));
  return found ? found[0] : "text";
}

/** Whether it is worth a look; what is not, is downloaded. */
export function canShow(file) {
  const kind = kindOf(file.path);
  if (isPicture(file) || kind === "pdf") return file.size <= MOST_PICTURE;
  return kind !== "packed";
}

export function isPicture(file) {
  return ["picture", "drawing"].includes(kindOf(file.path));
}

/** Where a file is shown; `open` fetches one and shows it there. */
export class Viewer {
  constructor(id) {
    this.id = id;
    this.turn = 0;
    this.path = null;
    this.place = h("div", { class: "content" });
    this.heading = h("h2", { id: "viewer-heading", tabindex: -1 });
    this.ways = h("span", { role: "group", "aria-label": "How it is shown" });
    this.download = h("a", { download: true }, "Download");
    const close = h("button", { type: "button" }, "Close");
    close.addEventListener("click", () => this.leave());
    this.element = h(
      "section",
      { "aria-labelledby": "viewer-heading", class: "viewer", "data-own": true, hidden: true },
      this.heading,
      h("p", { class: "buttons" }, this.ways, this.download, close),
      this.place,
    );
  }

  /** What is done where somebody wants to see it no more. */
  leave() {
    this.close();
  }

  address(view) {
    return `v1/jobs/${this.id}/files/${this.file.url}${view ? "?view=1" : ""}`;
  }

  /** `from`: what gets the focus back when it is closed. */
  async open(file, from) {
    this.file = file;
    this.path = file.path;
    this.from = from;
    this.heading.replaceChildren(foreign(file.path), " ", h("small", null, bytes(file.size)));
    this.download.setAttribute("href", this.address(false));
    this.ways.replaceChildren();
    this.place.replaceChildren();
    this.element.hidden = false;
    const kind = kindOf(file.path);
    this.heading.focus({ preventScroll: true });
    this.element.scrollIntoView({ block: "start" });
    const turn = (this.turn += 1);
    try {
      const shown = await this.content(kind);
      if (turn === this.turn) this.place.replaceChildren(...shown);
    } catch (error) {
      if (turn === this.turn) this.place.replaceChildren(h("p", { class: "bad" }, foreign(error.message)));
      if (error.status === undefined && error.name !== "TimeoutError") throw error;
    }
  }

  close() {
    this.turn += 1;
    this.path = null;
    this.element.hidden = true;
    this.place.replaceChildren();
    if (this.from?.isConnected) this.from.focus();
  }

  async content(kind) {
    const name = visible(this.file.path);
    if (kind === "picture" || (kind === "drawing" && this.file.size > MOST_TEXT))
      return [h("img", { src: this.address(true), alt: name })];
    if (kind === "pdf") return [h("iframe", { src: this.address(true), title: name })];
    this.place.replaceChildren(h("p", null, "Loading"));
    const text = await this.text();
    if (text === null) return [h("p", null, "This is no text. Download it to look at it.")];
    const undrawn = kind === "molecule" ? ` It is too large to draw: over ${bytes(MOST_TEXT)}.` : "";
    const cut = this.file.size > MOST_TEXT && h("p", null, `The first ${bytes(MOST_TEXT)} are shown.${undrawn}`);
    const ways = { Text: () => numbered(text) };
    if (kind === "table") ways.Table = () => tabled(text, separator(this.file.path, text));
    if (kind === "json" && !cut) {
      const pretty = indented(text);
      if (pretty !== null) ways.Indented = () => numbered(pretty);
    }
    if (kind === "drawing") ways.Picture = () => h("img", { src: this.address(true), alt: name });
    if (kind === "molecule" && !cut) ways.Model = () => molecule(name, extension(this.file.path), text);
    return [cut || null, this.switched(ways)].filter(Boolean);
  }

  /** The last of these ways first. */
  switched(ways) {
    const shown = h("div");
    const names = Object.keys(ways).reverse();
    const buttons = names.map((one) => h("button", { type: "button", "aria-pressed": "false" }, one));
    const choose = (one) => {
      buttons.forEach((button, n) => button.setAttribute("aria-pressed", String(names[n] === one)));
      shown.replaceChildren(...[ways[one]()].flat());
    };
    buttons.forEach((button, n) => button.addEventListener("click", () => choose(names[n])));
    if (names.length > 1) this.ways.replaceChildren(...buttons);
    choose(names[0]);
    return shown;
  }

  /** Null for what is no text. */
  async text() {
    const answer = await fetch(this.address(true), {
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE),
    });
    if (!answer.ok) {
      // The same question once more tells why, in the server's words.
      await get(this.address(true));
    }
    const data = new Uint8Array(await answer.arrayBuffer());
    if (data.subarray(0, 8192).includes(0)) return null;
    return new TextDecoder().decode(data);
  }
}

/** Text with the numbers of its lines beside it. They are no part of what is selected. */
function numbered(text) {
  const lines = text.replace(/\r\n?/g, "\n").replace(/\n$/, "").split("\n");
  const shown = lines.slice(0, LINES);
  const numbers = shown.map((_, n) => n + 1).join("\n");
  return [
    h(
      "div",
      { class: "numbered", tabindex: 0, role: "region", "aria-label": "Text of the file" },
      h("pre", { class: "line-numbers", "aria-hidden": "true" }, numbers),
      h("pre", null, shown.map((line) => visible(line.replaceAll("\t", "    "))).join("\n")),
    ),
    lines.length > LINES && h("p", null, `The first ${count(LINES)} lines are shown.`),
  ].filter(Boolean);
}

function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return null; // it is shown as it is
  }
}

/** What stands between the cells: where a decimal comma is written, a semicolon does. */
function separator(path, text) {
  if (extension(path) === "tsv") return "\t";
  const [first] = text.split("\n", 1);
  return first.includes(";") && !first.includes(",") ? ";" : ",";
}

function tabled(text, separator) {
  const rows = parsedRows(text, separator, ROWS + 1);
  if (rows.length === 0) return [h("p", null, "It is empty.")];
  const [head, ...body] = rows.slice(0, ROWS);
  const width = Math.max(...rows.map((row) => row.length));
  const columns = Array.from({ length: width }, (_, n) => n);
  const numeric = columns.map((n) => body.length > 0 && body.every((row) => isNumber(row[n] ?? "", separator === ";")));
  return [
    h(
      "div",
      { class: "tabled", tabindex: 0, role: "region", "aria-label": "Table of the file" },
      h(
        "table",
        { class: "plain" },
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            columns.map((n) => h("th", { scope: "col", class: numeric[n] && "numeric" }, foreign(head[n] ?? ""))),
          ),
        ),
        h(
          "tbody",
          null,
          body.map((row) =>
            h(
              "tr",
              null,
              columns.map((n) => h("td", { class: numeric[n] && "numeric" }, foreign(row[n] ?? ""))),
            ),
          ),
        ),
      ),
    ),
    rows.length > ROWS && h("p", null, `The first ${count(ROWS)} rows are shown.`),
  ].filter(Boolean);
}

function isNumber(text, comma) {
  return text.trim() === "" || Number.isFinite(Number(comma ? text.replace(",", ".") : text));
}

/** At most `most` rows as RFC 4180 has them: what is quoted may hold separators and line ends. */
export function parsedRows(text, separator, most) {
  const rows = [];
  let row = [];
  let cell = "";
  let quoted = false;
  const end = () => {
    row.push(cell);
    cell = "";
  };
  for (let n = 0; n < text.length && rows.length < most; n += 1) {
    const one = text[n];
    if (quoted) {
      if (one !== '"') cell += one;
      else if (text[n + 1] === '"') cell += text[(n += 1)];
      else quoted = false;
    } else if (one === '"' && cell === "") {
      quoted = true;
    } else if (one === separator) {
      end();
    } else if (one === "\n") {
      end();
      rows.push(row);
      row = [];
    } else if (one !== "\r") {
      cell += one;
    }
  }
  if (rows.length < most && (cell !== "" || row.length > 0)) {
    end();
    rows.push(row);
  }
  return rows;
}

/** A model in a frame that has no access to this page: it is handed the text, and nothing comes back. */
function molecule(name, extension, text) {
  const frame = h("iframe", {
    class: "molecule",
    src: "dashboard/molecule.html",
    title: `Model of ${name}`,
    sandbox: "allow-scripts",
  });
  frame.addEventListener("load", () =>
    frame.contentWindow.postMessage({ format: extension.replace("mm", "").replace("ent", "pdb"), text }, "*"),
  );
  return [frame, h("p", { class: "how" }, "Drag to turn it, scroll to come nearer.")];
}
