// What a program prints, as lines of text with colours: other escape sequences are left out, a carriage return
// begins its line anew, other controls are shown as signs. Whatever comes, text and a few classes are all that it
// can become.

const ESCAPES = new RegExp(
  [
    "\u001b\\[[0-?]*[ -/]*[@-~]", // colours, movements of the cursor
    "\u001b[\\]PX^_][^\u0007\u001b]*(?:\u0007|\u001b\\\\)", // titles, links and other strings
    "\u001b[ -/]*[0-Z\\\\^-~]",
  ].join("|"),
  "g",
);
const COLOUR = /\u001b\[([0-9;:]*)m/g;
// The beginning of one, whose rest has not come yet.
const UNFINISHED = /\u001b(?:\[[0-?]*[ -/]*|[\]PX^_][^\u0007\u001b]*\u001b?|[ -/]*)?$/;
const LONGEST_ESCAPE = 4096;
const LONGEST_LINE = 100_000;
// Line ends and tabs stay; what turns text around within a line cannot leave it, for each line is isolated.
const CONTROLS = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/g;

const PLAIN = Object.freeze({ bold: false, italic: false, underline: false, inverse: false, fg: 0, bg: 0 });
const SWITCHES = {
  1: { bold: true },
  3: { italic: true },
  4: { underline: true },
  7: { inverse: true },
  22: { bold: false },
  23: { italic: false },
  24: { underline: false },
  27: { inverse: false },
  39: { fg: 0 },
  49: { bg: 0 },
};
const GREY = 7; // black and white, too: they are to be read on any ground

export class Terminal {
  constructor() {
    this.reset();
  }

  reset() {
    this.held = "";
    this.line = "";
    this.style = PLAIN; // as the line begins
  }

  /** Takes what comes; gives the lines that are complete with it: `{text, runs}`, where `runs` is null for a
   * plain line, else its parts `{text, style}` with the classes of each. `rest` is the one that is not complete. */
  feed(text) {
    const all = this.held + text;
    const cut = all.search(UNFINISHED);
    const whole = cut >= 0 && all.length - cut <= LONGEST_ESCAPE ? all.slice(0, cut) : all;
    this.held = all.slice(whole.length);
    const lines = (this.line + whole.replace(ESCAPES, colourAlone)).split("\n");
    this.line = lines.pop();
    const done = lines.map((line) => this.finish(line));
    this.overwrite();
    while (this.line.length > LONGEST_LINE) {
      done.push(this.finish(this.line.slice(0, LONGEST_LINE)));
      this.line = this.line.slice(LONGEST_LINE);
    }
    return done;
  }

  get rest() {
    return parsed(this.line, this.style).line;
  }

  finish(text) {
    const { line, style } = parsed(text, this.style);
    this.style = style;
    return line;
  }

  /** Of a line that was begun anew, as a progress bar is, only what is seen is kept. */
  overwrite() {
    const begun = begin(this.line);
    if (begun === 0) return;
    this.style = parsed(this.line.slice(0, begun), this.style).style;
    this.line = this.line.slice(begun);
  }
}

function colourAlone(escape) {
  return escape.match(COLOUR)?.[0] === escape ? escape : "";
}

/** Where that begins what was written last over all before it. */
function begin(line) {
  let end = line.length;
  while (line[end - 1] === "\r") end -= 1;
  return line.lastIndexOf("\r", end - 1) + 1;
}

/** The line as it is seen, and the style that goes on behind it. */
function parsed(line, style) {
  const first = begin(line);
  const runs = [];
  let at = 0;
  const add = (end) => {
    const text = line.slice(Math.max(at, first), end).replaceAll("\r", "").replace(CONTROLS, pictured);
    if (end > first && text !== "") runs.push({ text, style: classes(style) });
  };
  if (line.includes("\u001b")) {
    for (const match of line.matchAll(COLOUR)) {
      add(match.index);
      at = match.index + match[0].length;
      style = styled(style, match[1]);
    }
  }
  add(line.length);
  const text = runs.length === 1 ? runs[0].text : runs.map((run) => run.text).join("");
  return { line: { text, runs: runs.every((run) => run.style === "") ? null : runs }, style };
}

/** The style after one sequence of colours. */
function styled(style, sequence) {
  const given = sequence.split(";");
  let now = style;
  for (let n = 0; n < given.length; n += 1) {
    const code = Number.parseInt(given[n] || "0", 10);
    if (code === 0) now = PLAIN;
    else if (SWITCHES[code]) now = { ...now, ...SWITCHES[code] };
    else if (code === 38 || code === 48) {
      const [colour, used] = extended(given[n].includes(":") ? given[n].split(":") : given.slice(n));
      if (!given[n].includes(":")) n += used;
      now = { ...now, [code === 38 ? "fg" : "bg"]: colour };
    } else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) now = { ...now, fg: basic(code) };
    else if ((code >= 40 && code <= 47) || (code >= 100 && code <= 107)) now = { ...now, bg: basic(code) };
  }
  return now;
}

/** One of few colours, and how many numbers say it: of 256, or of red, green and blue. */
function extended([, way, ...rest]) {
  if (way === "5") return [indexed(Number.parseInt(rest[0], 10) || 0), 2];
  return [nearest(...rest.slice(-3).map((one) => Number.parseInt(one, 10) || 0)), 4];
}

function basic(code) {
  return code % 10 || GREY;
}

function indexed(index) {
  if (index < 16) return index % 8 || GREY;
  if (index >= 232) return GREY;
  const cube = index - 16;
  return nearest(51 * Math.floor(cube / 36), 51 * (Math.floor(cube / 6) % 6), 51 * (cube % 6));
}

function nearest(red = 0, green = 0, blue = 0) {
  const most = Math.max(red, green, blue);
  const least = Math.min(red, green, blue);
  if (most - least < 48) return GREY;
  const middle = (most + least) / 2;
  return (red > middle ? 1 : 0) + (green > middle ? 2 : 0) + (blue > middle ? 4 : 0);
}

function classes({ bold, italic, underline, inverse, fg, bg }) {
  const names = [bold && "bold", italic && "italic", underline && "underline", inverse && "inverse"];
  return [...names, fg && `fg-${fg}`, bg && `bg-${bg}`].filter(Boolean).join(" ");
}

function pictured(character) {
  const code = character.charCodeAt(0);
  return code < 0x20 ? String.fromCharCode(0x2400 + code) : "\ufffd";
}
