// A job's files, wherever they are now: what it was given, and what it has made of it.

import { h, morphChildren, NOTHING, table } from "./dom.js";
import { get } from "./api.js";
import { bytes, count, foreign, number, time, visible } from "./format.js";
import { say } from "./orders.js";
import { link } from "./router.js";
import { canShow, isPicture } from "./viewer.js";

const SHOWN = 200;
const LISTED = 20; // of more the folders are folded, and one may be searched for
const MOST_SEARCHED = 5000;
const BRIEF = 4; // inputs that are named where the job stands
const PICTURES = 4; // that are seen without a click,
const MOST_PICTURE = 4 << 20; // if they are no larger
const SCRIPT = "run.sh";

export class Files {
  /** `viewer` shows one of them. */
  constructor(id, viewer) {
    this.id = id;
    this.viewer = viewer;
    this.items = [];
    this.came = []; // what it was given, or the first of it
    this.next = null;
    this.begun = false;
    this.searching = false;
    this.awaited = null; // the path of one that is to be shown when they have come
    this.from = null; // what was clicked to see one
    this.opened = new Set(); // folders
    this.all = false; // pictures are seen
    this.over = false; // the job; before that its pictures are half drawn
    this.brief = h("p", { class: "brief", "data-own": true, hidden: true });
    this.pictures = h("div", { class: "pictures" });
    this.made = h("div", { class: "files" });
    this.given = h("div", { class: "files" });
    this.more = h("button", { type: "button", hidden: true }, `Show ${SHOWN} more`);
    this.finder = h("input", { type: "search", name: "find", autocomplete: "off" });
    this.find = h("label", { hidden: true }, "Find a file ", this.finder);
    const again = h("button", { type: "button" }, "Refresh");
    this.whole = h("a", { href: `download_partial/${id}`, download: true }, "Everything so far as a zip");
    this.results = h(
      "section",
      { "aria-labelledby": "results-heading", "data-own": true },
      h("h2", { id: "results-heading" }, "Results"),
      h("p", { class: "buttons" }, this.whole, again, this.find),
      this.pictures,
      this.made,
      h("p", { class: "more" }, this.more),
    );
    this.inputs = h(
      "section",
      { "aria-labelledby": "inputs-heading", "data-own": true },
      h("h2", { id: "inputs-heading" }, "Inputs"),
      this.given,
    );
    this.finder.addEventListener("input", () => {
      this.show(null);
      this.search();
    });
    for (const place of [this.made, this.given]) {
      place.addEventListener("click", ({ target }) => {
        const folder = target.closest("button[data-folder]")?.dataset.folder;
        if (folder === undefined) return;
        if (!this.opened.delete(folder)) this.opened.add(folder);
        this.show(null);
      });
    }
    again.addEventListener("click", () => this.refresh());
    this.more.addEventListener("click", () => this.read(this.next));
    this.pictures.addEventListener("click", ({ target }) => {
      if (target.closest("[data-key=more]") === null) return;
      this.all = true;
      this.show(null);
    });
    for (const place of [this.brief, this.pictures, this.made, this.given]) {
      place.addEventListener("click", (event) => {
        const chosen = event.target.closest("a[data-file]");
        if (!chosen || event.ctrlKey || event.metaKey || event.shiftKey) return;
        this.from = chosen;
        if (this.viewer.path === null) return; // the address changes, and it is shown
        event.preventDefault();
        // One file after another is one step in the history, so a step back closes it.
        if (this.viewer.path === chosen.dataset.file) this.open(chosen.dataset.file);
        else location.replace(chosen.href);
      });
    }
  }

  async refresh() {
    await this.read(null);
    await this.search();
  }

  /** Have all that may be searched, if somebody searches. */
  async search() {
    if (this.finder.value.trim() !== "") await this.readAll(() => false);
    if (this.awaited) await this.open(this.awaited);
  }

  /** Read on, unless it is `enough()`. */
  async readAll(enough) {
    if (this.searching) return;
    this.searching = true;
    for (let before = null; this.next && this.next !== before && this.items.length < MOST_SEARCHED && !enough(); ) {
      before = this.next;
      await this.read(before);
    }
    this.searching = false;
  }

  /** Show one of them. */
  async open(path) {
    this.awaited = null;
    const found = () => [...this.items, ...this.came].find((one) => one.path === path);
    await this.readAll(found);
    const file = found();
    if (!file) say(`There is no file ${path}.`, "bad");
    else this.viewer.open(file, this.from?.dataset.file === path ? this.from : null);
  }

  /** Read on from a place; without one as many anew as there are, for who looks at one keeps it. */
  async read(cursor) {
    const wanted = cursor ? 0 : this.items.length;
    let items = cursor ? this.items : [];
    try {
      do {
        const page = await get(`v1/jobs/${this.id}/files`, { limit: SHOWN, cursor });
        items = [...items, ...page.items];
        cursor = page.next;
      } while (cursor && items.length < wanted);
      this.items = items;
      this.next = cursor;
      this.came = this.items.filter((one) => one.origin === "input" || one.origin === "changed");
      // Among many results they may not have come yet.
      if (this.next) this.came = (await get(`v1/jobs/${this.id}/files`, { inputs: 1, limit: BRIEF + 1 })).items;
      this.show(null);
    } catch (error) {
      if (error.status === undefined) throw error;
      this.show(error.message);
    }
  }

  show(refused) {
    this.whole.hidden = refused !== null || this.over; // then the results are all there is
    this.more.hidden = refused !== null || !this.next;
    const given = this.items.filter((one) => one.origin === "input");
    // A directory is seen in the paths of what is in it.
    const made = this.items.filter((one) => one.origin !== "input" && one.kind !== "directory");
    if (refused !== null) {
      morphChildren(this.made, [h("p", null, foreign(refused))]);
      for (const place of [this.brief, this.pictures, this.given]) morphChildren(place, []);
      return;
    }
    morphChildren(this.brief, this.inputNames());
    const seen = made.filter((one) => this.over && one.kind === "file" && isPicture(one) && one.size <= MOST_PICTURE);
    const left = this.all ? 0 : Math.max(0, seen.length - PICTURES);
    morphChildren(this.pictures, [
      ...seen.slice(0, seen.length - left).map((one) => this.pictured(one)),
      ...(left > 0 ? [h("button", { type: "button", "data-key": "more" }, `Show ${number(left, "more picture")}`)] : []),
    ]);
    this.find.hidden = made.length <= LISTED && !this.next && this.finder.value === "";
    const text = this.finder.value.trim().toLowerCase();
    const found = text && made.filter((one) => one.path.toLowerCase().includes(text));
    const caption = `${found ? `${count(found.length)} of ` : ""}${number(made.length, "file")} new or changed`;
    const more = this.next ? " so far; there are more" : "";
    morphChildren(this.made, [
      made.length === 0
        ? h("p", null, "No file is new or changed.")
        : table(`${caption}${more}`, this.columns(true), found || this.lines(made), path),
    ]);
    morphChildren(this.given, [
      given.length === 0
        ? h("p", null, "No input is unchanged.")
        : table(`${number(given.length, "file")}${this.begun ? " unchanged" : ""}`, this.columns(false), this.lines(given), path),
    ]);
  }

  /** What is listed of these: of many each folder is one line until it is opened. `from`: where in their paths
   * the folder ends that they are in. */
  lines(files, from = 0) {
    if (files.length <= LISTED) return files;
    const lines = new Map();
    for (const file of files) {
      const end = file.path.indexOf("/", from) + 1;
      const folder = file.path.slice(0, end);
      if (end === 0) lines.set(file.path, file);
      else if (lines.has(folder)) lines.get(folder).files.push(file);
      else lines.set(folder, { folder, files: [file] });
    }
    return [...lines.values()].flatMap((one) =>
      this.opened.has(one.folder) ? [one, ...this.lines(one.files, one.folder.length)] : [one],
    );
  }

  /** The inputs in one line, the script last: it has the same name everywhere. */
  inputNames() {
    const files = this.came.filter((one) => one.kind === "file");
    const sorted = [...files.filter((one) => one.path !== SCRIPT), ...files.filter((one) => one.path === SCRIPT)];
    if (sorted.length === 0) return [];
    const shown = sorted.slice(0, BRIEF).map((one, n) => [n > 0 && ", ", this.named(one)]);
    const left = sorted.length > BRIEF && (this.next ? " and more" : ` and ${count(sorted.length - BRIEF)} more`);
    return [h("span", null, "Inputs: ", shown, left)];
  }

  pictured(file) {
    const source = `v1/jobs/${this.id}/files/${file.url}?view=1`;
    return h(
      "a",
      { class: "preview", href: this.at(file), "data-file": file.path, "data-key": `picture ${file.path}` },
      h("img", { src: source, alt: visible(file.path), loading: "lazy" }),
      h("span", { "aria-hidden": "true" }, foreign(file.path)),
    );
  }

  columns(made) {
    return [
      { name: "File", head: true, show: (file) => this.named(file) },
      made && { name: "What", short: true, show: (file) => (file.folder ? NOTHING : file.origin === "changed" ? "changed" : "new") },
      { name: "Size", numeric: true, show: sizeOf },
      { name: "Modified", short: true, show: (file) => (file.folder ? NOTHING : time(file.mtime)) },
      { name: "Actions", short: true, show: (file) => this.actions(file) },
    ].filter(Boolean);
  }

  named(file) {
    if (file.folder) return this.folder(file);
    if (file.kind !== "file") return [foreign(file.path), file.target && [" → ", foreign(file.target)]];
    if (!canShow(file)) return this.download(file, foreign(file.path));
    return h("a", { href: this.at(file), "data-file": file.path }, foreign(file.path));
  }

  /** The address of one that is shown. */
  at(file) {
    return link(["jobs", this.id], { file: file.path });
  }

  folder({ folder, files }) {
    const open = this.opened.has(folder);
    return h(
      "button",
      { type: "button", class: "plain", "data-folder": folder, "aria-expanded": String(open) },
      h("span", { "aria-hidden": "true" }, open ? "▾ " : "▸ "),
      foreign(folder),
      ` ${number(files.length, "file")}`,
    );
  }

  actions(file) {
    return file.kind === "file" ? this.download(file, "Download", `Download ${file.path}`) : null;
  }

  download(file, shown, label) {
    return h(
      "a",
      { href: `v1/jobs/${this.id}/files/${file.url}`, download: true, "aria-label": label },
      shown,
    );
  }
}

function path(file) {
  return file.folder ?? file.path;
}

function sizeOf(file) {
  if (file.folder) return bytes(file.files.reduce((sum, one) => sum + (one.size ?? 0), 0));
  return file.kind === "file" ? bytes(file.size) : file.kind;
}
