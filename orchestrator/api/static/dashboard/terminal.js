// What a program prints, as plain lines: escape sequences are left out, a carriage return begins its line anew,
// other controls are shown as signs. Whatever comes, text is all that it can become.

const ESCAPES = new RegExp(
  [
    "\u001b\\[[0-?]*[ -/]*[@-~]", // colours, movements of the cursor
    "\u001b[\\]PX^_][^\u0007\u001b]*(?:\u0007|\u001b\\\\)", // titles, links and other strings
    "\u001b[ -/]*[0-Z\\\\^-~]",
  ].join("|"),
  "g",
);
// The beginning of one, whose rest has not come yet.
const UNFINISHED = /\u001b(?:\[[0-?]*[ -/]*|[\]PX^_][^\u0007\u001b]*\u001b?|[ -/]*)?$/;
const LONGEST_ESCAPE = 4096;
const LONGEST_LINE = 100_000;
// Line ends and tabs stay; what turns text around within a line cannot leave it, for each line is isolated.
const CONTROLS = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/g;

export class Terminal {
  constructor() {
    this.reset();
  }

  reset() {
    this.held = "";
    this.line = "";
  }

  /** Takes what comes; gives the lines that are complete with it. `rest` is the one that is not. */
  feed(text) {
    const all = this.held + text;
    const cut = all.search(UNFINISHED);
    const whole = cut >= 0 && all.length - cut <= LONGEST_ESCAPE ? all.slice(0, cut) : all;
    this.held = all.slice(whole.length);
    const lines = (this.line + whole.replace(ESCAPES, "")).split("\n");
    this.line = lines.pop();
    while (this.line.length > LONGEST_LINE) {
      lines.push(this.line.slice(0, LONGEST_LINE));
      this.line = this.line.slice(LONGEST_LINE);
    }
    return lines.map(overwritten);
  }

  get rest() {
    return overwritten(this.line);
  }
}

function overwritten(line) {
  const plain = line.replace(/\r+$/, "");
  return plain.slice(plain.lastIndexOf("\r") + 1).replace(CONTROLS, pictured);
}

function pictured(character) {
  const code = character.charCodeAt(0);
  return code < 0x20 ? String.fromCharCode(0x2400 + code) : "\ufffd";
}
