// Making and renewing what is shown. Text comes in as text nodes only: whatever a job, a node or a file is
// called, it is never read as markup.

/** What stands where there is nothing to tell. */
export const NOTHING = "–";

/** An element. Attributes that are null, undefined or false are left out; true is an empty one. Children are
 * nodes, text, numbers, or lists of these; null and false are left out. */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child instanceof Node) element.append(child);
    else if (child !== null && child !== undefined && child !== false) element.append(String(child));
  }
}

/** Make `shown` like `wanted` and change as little as possible: what has the focus, is selected, opened or
 * scrolled stays so. Rows and the like are told apart by `data-key`; what is marked `data-own` looks after its
 * inside by itself. */
export function morph(shown, wanted) {
  for (const { name } of [...shown.attributes]) {
    if (!wanted.hasAttribute(name) && name !== "open") shown.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (shown.getAttribute(name) === value) continue;
    if (name === "style")
      shown.style.cssText = wanted.style.cssText; // as an attribute the policy forbids it
    else if (name !== "open") shown.setAttribute(name, value);
  }
  if (!shown.hasAttribute("data-own")) morphChildren(shown, [...wanted.childNodes]);
}

/** The same for all that is in `parent`. */
export function morphChildren(parent, wanted) {
  const keyed = new Map();
  for (const child of parent.children) if (child.dataset.key) keyed.set(child.dataset.key, child);
  const kept = new Set(wanted.map((node) => node.dataset?.key).filter(Boolean));
  let at = parent.firstChild;
  for (const node of wanted) {
    const key = node.dataset?.key;
    // A row whose key is no longer wanted is no match for another row.
    while (at?.dataset?.key && !kept.has(at.dataset.key)) {
      const gone = at;
      at = at.nextSibling;
      drop(gone);
    }
    const match = key ? keyed.get(key) : alike(at, node) ? at : null;
    if (!match) {
      parent.insertBefore(node, at);
    } else {
      if (match === at) at = at.nextSibling;
      else move(parent, match, at);
      renew(match, node);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    drop(gone);
  }
}

/** Put a child of `parent` before another one, or last. Where the browser can, it is not taken out for that: the
 * focus stays in it, and so does a press on it that is under way. */
export function move(parent, child, before) {
  if (parent.moveBefore) parent.moveBefore(child, before);
  else parent.insertBefore(child, before);
}

/** Take it away. Who had the focus in it goes on from the heading of the page. */
export function drop(node) {
  const focused = node.contains(document.activeElement);
  node.remove();
  if (focused) document.querySelector("main h1")?.focus({ preventScroll: true });
}

function alike(shown, wanted) {
  return Boolean(shown) && shown.nodeName === wanted.nodeName && !shown.dataset?.key;
}

function renew(shown, wanted) {
  if (shown.nodeType === Node.TEXT_NODE) {
    if (shown.data !== wanted.data) shown.data = wanted.data;
  } else {
    morph(shown, wanted);
  }
}

/** A field of a form by which a list is narrowed; `values` has what is in it, by its name. */
export function field(values, name, label, attributes, hidden = false) {
  return h(
    "label",
    { hidden },
    `${label} `,
    h("input", { name, type: "text", autocomplete: "off", value: values[name], ...attributes }),
  );
}

const TYPING = 300; // milliseconds

/** Take the `fields` of a form into `values` when somebody has stopped typing, and when the form was emptied;
 * `changed()` is told. Answers with what is to be called at the end. */
export function heed(form, fields, values, changed) {
  let typing = 0;

  function take() {
    clearTimeout(typing);
    typing = setTimeout(() => {
      for (const name of fields) values[name] = form.elements[name].value;
      changed();
    }, TYPING);
  }

  form.addEventListener("input", take);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () =>
    setTimeout(() => {
      for (const name of fields) form.elements[name].value = "";
      take();
    }),
  );
  return () => clearTimeout(typing);
}

/** A table whose rows become cards on a narrow screen; so the roles are said, for the cards are still a table.
 * A column is `{name, show(item), numeric, head, short}`; `head` marks the one that names the row, `short` one
 * whose words never break. */
export function table(caption, columns, items, key) {
  return h(
    "table",
    { role: "table" },
    h("caption", null, caption),
    h(
      "thead",
      { role: "rowgroup" },
      h(
        "tr",
        { role: "row" },
        columns.map((one) =>
          h("th", { scope: "col", role: "columnheader", class: one.numeric && "numeric" }, one.name),
        ),
      ),
    ),
    h(
      "tbody",
      { role: "rowgroup" },
      items.map((item) => row(columns, item, key(item))),
    ),
  );
}

/** One row of such a table. */
export function row(columns, item, key) {
  return h(
    "tr",
    { role: "row", "data-key": key },
    columns.map((one) => {
      const shown = one.show(item);
      const given = {
        "data-label": one.name,
        "data-empty": shown === NOTHING, // a card leaves it out
        class: [one.numeric && "numeric", one.short && "short"].filter(Boolean).join(" ") || null,
      };
      return one.head
        ? h("th", { scope: "row", role: "rowheader", ...given }, h("span", null, shown))
        : h("td", { role: "cell", ...given }, h("span", null, shown));
    }),
  );
}

/** Names with their values; a pair whose value is null is left out. */
export function facts(pairs) {
  return h(
    "dl",
    { class: "facts" },
    pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== false && value !== "")
      .map(([name, value]) => h("div", { "data-key": name }, h("dt", null, name), h("dd", null, value))),
  );
}
