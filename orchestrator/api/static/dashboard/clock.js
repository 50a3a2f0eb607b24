// The time as the server has it: durations are counted from its times, and clocks of visitors are often wrong.

const TELLING = 2000; // its answers tell whole seconds, and are under way for a while

let ahead = 0;

/** What an answer's header says of the server's time. */
export function heard(date) {
  const difference = Date.parse(date ?? "") - Date.now();
  if (Number.isFinite(difference)) ahead = Math.abs(difference) < TELLING ? 0 : difference;
}

/** Milliseconds since 1970. */
export function now() {
  return Date.now() + ahead;
}
