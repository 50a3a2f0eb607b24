// Charts of the last hour by uPlot; the same numbers stand beside each as a table, for who cannot see it.

import { now } from "./clock.js";
import { h, morphChildren, table } from "./dom.js";
import { minute } from "./format.js";

let fetched = null;

/** It is no module: it is had as `window.uPlot`, once the first chart is to be drawn. */
function plotting() {
  fetched ??= new Promise((resolve, reject) => {
    const script = h("script", { src: new URL("./uPlot.iife.min.js", import.meta.url).href });
    script.addEventListener("load", resolve);
    script.addEventListener("error", () => {
      fetched = null;
      script.remove();
      reject(new Error("uPlot could not be fetched"));
    });
    document.head.append(script);
  });
  return fetched;
}

const HEIGHT = 180;
const MINUTE = 60;
const SVG = "http://www.w3.org/2000/svg";

// Steps that an axis may have: of numbers that are whole, and of seconds, as people count them.
export const WHOLE = { least: 1, steps: tens(1) };
export const SECONDS = {
  least: 0.1,
  steps: [...tens(0.01).filter((one) => one < 10), 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, ...tens(86400)],
};

function tens(first) {
  return Array.from({ length: 10 }, (_, n) => [1, 2, 5].map((one) => one * first * 10 ** n)).flat();
}

/** A chart of `lines` (`{name, colour, dash, points}`, colours being custom properties of the style sheet) over minutes,
 * written by `written`; `scale` is WHOLE or SECONDS. It is drawn before it comes into view, after what stands around it. */
export class Chart {
  constructor(title, lines, written, scale) {
    this.scale = scale;
    this.title = title;
    this.lines = lines;
    this.written = written;
    this.data = null;
    this.plot = null;
    this.ready = false; // to be drawn
    this.closed = false;
    this.canvas = h("div", { class: "plot", "aria-hidden": "true" });
    this.numbers = h("details", null, h("summary", null, `The numbers: ${title.toLowerCase()}`), h("div"));
    this.numbers.addEventListener("toggle", () => this.tabulate());
    this.element = h(
      "figure",
      { "data-own": true },
      h("figcaption", null, title),
      this.canvas,
      this.numbers,
    );
    this.sized = new ResizeObserver(() => this.resize());
    this.seen = new IntersectionObserver(
      (entries) => entries.some((one) => one.isIntersecting) && this.begin(),
      { rootMargin: "100%" }, // a screen before it is seen
    );
    this.seen.observe(this.canvas);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dim = () => this.draw();
    this.dark.addEventListener("change", this.dim);
  }

  async begin() {
    this.seen.disconnect();
    try {
      await plotting();
    } catch (error) {
      this.canvas.replaceChildren(h("p", null, `The chart is missing: ${error.message}.`));
      return;
    }
    if (this.closed) return;
    this.ready = true;
    this.sized.observe(this.canvas); // which tells of its size at once, and so draws it
  }

  /** `times` in seconds since 1970, and for each line as many values; null where there is none. */
  show(times, values) {
    this.data = [times, ...values];
    if (this.plot) this.plot.setData(this.data);
    else requestAnimationFrame(() => setTimeout(() => this.plot || this.draw())); // once the numbers are painted
    this.tabulate();
  }

  /** Where they are looked at. */
  tabulate() {
    if (!this.data || !this.numbers.open) return;
    const [times, ...values] = this.data;
    const rows = times
      .map((at, n) => ({ at, values: values.map((line) => line[n]) }))
      .filter((one) => one.values.some((value) => value))
      .reverse();
    const columns = [
      {
        name: "Minute",
        head: true,
        show: (one) => minute(new Date(1000 * one.at)),
      },
      ...this.lines.map((line, n) => ({
        name: line.name,
        numeric: true,
        show: (one) => this.written(one.values[n]),
      })),
    ];
    morphChildren(this.numbers.lastElementChild, [
      rows.length > 0
        ? table(
            `${this.title}, newest first; minutes with nothing are left out`,
            columns,
            rows,
            (one) => one.at,
          )
        : h("p", null, "Nothing happened."),
    ]);
  }

  draw() {
    this.plot?.destroy();
    this.plot = null;
    const width = this.canvas.clientWidth;
    if (!this.data || !this.ready || this.closed || width === 0) return;
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: colour("--quiet"),
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { stroke: colour("--line") },
    };
    this.plot = new window.uPlot(
      {
        width,
        height: HEIGHT,
        series: [
          {
            value: (_, at) => (at === null ? "" : minute(new Date(1000 * at))),
            label: "Minute",
          },
          ...this.lines.map((line) => ({
            label: line.name,
            stroke: colour(line.colour),
            dash: line.dash,
            width: 2,
            points: { show: Boolean(line.points), size: 5 },
            value: (_, value) => this.written(value),
          })),
        ],
        axes: [
          {
            ...axis,
            values: (_, ticks) => ticks.map((at) => minute(new Date(1000 * at))),
          },
          { ...axis, size: room, incrs: this.scale.steps, values: (_, ticks) => ticks.map((value) => this.written(value)) },
        ],
        scales: { y: { range: (_, least, most) => [0, Math.max(this.scale.least, (most ?? 0) * 1.1)] } },
        cursor: { y: false },
        legend: { markers: { width: 0 } },
        hooks: { ready: [(plot) => this.legend(plot)] },
      },
      this.data,
      this.canvas,
    );
  }

  /** Each line's name has beside it a piece of the line: colour alone tells too few people which it is. */
  legend(plot) {
    const [, ...markers] = plot.root.querySelectorAll(".u-marker"); // the first is that of the minute
    markers.forEach((marker, n) => marker.replaceChildren(piece(this.lines[n])));
  }

  resize() {
    const width = this.canvas.clientWidth;
    if (this.plot && width > 0) this.plot.setSize({ width, height: HEIGHT });
    else this.draw();
  }

  close() {
    this.closed = true;
    this.seen.disconnect();
    this.sized.disconnect();
    this.dark.removeEventListener("change", this.dim);
    this.plot?.destroy();
  }
}

/** CSS pixels that an axis needs for its labels. */
function room(plot, labels, number, cycle) {
  const axis = plot.axes[number];
  if (cycle > 1) return axis._size; // labels and size depend on each other: enough now
  plot.ctx.font = axis.font[0];
  const widest = Math.max(0, ...(labels ?? []).map((text) => plot.ctx.measureText(text).width));
  return Math.ceil(axis.ticks.size + axis.gap + widest / devicePixelRatio);
}

/** A short piece of a line, drawn as in the chart. */
function piece({ colour, dash, points }) {
  const shape = (name, attributes) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
    made.style.stroke = `var(${colour})`;
    return made;
  };
  const drawn = shape("svg", { width: 34, height: 10 });
  const width = { "stroke-width": 2, "stroke-dasharray": dash ?? "none" };
  drawn.append(shape("line", { x1: 0, x2: 34, y1: 5, y2: 5, ...width }));
  if (points) drawn.append(shape("circle", { class: "point", cx: 17, cy: 5, r: 2.5 }));
  return drawn;
}

/** The minutes from `since` on that are over (one that has just begun would look like a crash); what the API
 * tells of them, of all services together. */
export function minutes(since, items) {
  const first = Math.ceil(Date.parse(since) / 1000 / MINUTE) * MINUTE;
  const last = Math.floor(now() / 1000 / MINUTE) * MINUTE;
  const by = new Map();
  for (let at = first; at < last; at += MINUTE) by.set(at, []);
  for (const item of items) by.get(Date.parse(item.at) / 1000)?.push(item);
  return by;
}
