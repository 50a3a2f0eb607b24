// Submit files, show what the job prints, fetch its results:
//   ORCHESTRATOR_URL=http://127.0.0.1:5000 ORCHESTRATOR_TOKEN=... node submit.mjs SERVICE USER FILE...
import { readFile, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { Orchestrator } from "./orchestrator.mjs";

const [service, user, ...names] = process.argv.slice(2);
if (names.length === 0) {
  console.error("usage: node submit.mjs SERVICE USER FILE...   (one of them is run.sh)");
  process.exit(2);
}
const orchestrator = new Orchestrator(
  process.env.ORCHESTRATOR_URL ?? "http://127.0.0.1:5000",
  process.env.ORCHESTRATOR_TOKEN,
);
process.on("uncaughtException", (error) => {
  console.error(error.message);
  process.exit(1);
});
const files = await Promise.all(names.map(async (name) => [basename(name), new Blob([await readFile(name)])]));
const { id } = await orchestrator.submit(files, { service, user });
console.log(`job ${id}`);
for await (const piece of orchestrator.log(id)) process.stdout.write(piece);
const job = await orchestrator.wait(id);
console.log(`${job.status}${job.message ? `: ${job.message}` : ""}`);
if (job.status === "Completed") {
  const zip = await orchestrator.results(id);
  await writeFile(`job-${id}.zip`, Buffer.from(await zip.arrayBuffer()));
  console.log(`job-${id}.zip`);
}
process.exitCode = job.status === "Completed" ? 0 : 1;
