// A job's files, wherever they are now.

import { h, morphChildren, table } from "./dom.js";
import { get } from "./api.js";
import { bytes, count, foreign, time } from "./format.js";

const SHOWN = 200;

export class Files {
  constructor(id) {
    this.id = id;
    this.items = [];
    this.next = null;
    this.list = h("div");
    this.more = h("button", { type: "button", hidden: true }, `Show ${SHOWN} more`);
    const again = h("button", { type: "button" }, "Look again");
    this.whole = h("a", { href: `download_partial/${id}`, download: true }, "All of it as a zip");
    this.element = h(
      "section",
      { "aria-labelledby": "files-heading", "data-own": true },
      h("h2", { id: "files-heading" }, "Files"),
      h("p", { class: "buttons" }, this.whole, again),
      this.list,
      h("p", { class: "more" }, this.more),
    );
    again.addEventListener("click", () => this.refresh());
    this.more.addEventListener("click", () => this.read(this.next));
  }

  async refresh() {
    await this.read(null);
  }

  async read(cursor) {
    try {
      const page = await get(`v1/jobs/${this.id}/files`, { limit: SHOWN, cursor });
      this.items = cursor ? [...this.items, ...page.items] : page.items;
      this.next = page.next;
      this.show(null);
    } catch (error) {
      if (error.status === undefined) throw error;
      this.show(error.message);
    }
  }

  show(refused) {
    this.whole.hidden = refused !== null;
    this.more.hidden = refused !== null || !this.next;
    morphChildren(this.list, [
      refused !== null
        ? h("p", null, foreign(refused))
        : this.items.length === 0
          ? h("p", null, "There is no file.")
          : table(
              `${count(this.items.length)}${this.next ? " of more" : ""} files`,
              this.columns(),
              this.items,
              (file) => file.path,
            ),
    ]);
  }

  columns() {
    return [
      { name: "File", head: true, show: (file) => this.named(file) },
      { name: "Size", numeric: true, show: (file) => (file.kind === "file" ? bytes(file.size) : file.kind) },
      { name: "Changed", show: (file) => time(file.mtime) },
    ];
  }

  named(file) {
    if (file.kind !== "file") return [foreign(file.path), file.target && [" → ", foreign(file.target)]];
    return h("a", { href: `v1/jobs/${this.id}/files/${file.url}`, download: true }, foreign(file.path));
  }
}
