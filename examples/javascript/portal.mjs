// The page of a portal that talks to an orchestrator at another origin, which has to allow it: ALLOWED_ORIGINS.
import { Orchestrator } from "./orchestrator.mjs";

const form = document.getElementById("form");
const status = document.getElementById("status");
const log = document.getElementById("log");
const results = document.getElementById("results");

async function run() {
  const fields = new FormData(form);
  const orchestrator = new Orchestrator(fields.get("url"), fields.get("token"));
  const { id } = await orchestrator.submit(fields.getAll("files"), {
    service: fields.get("service"),
    user: fields.get("user"),
  });
  status.textContent = `Job ${id} was accepted`;
  // As text: what a job prints is nobody's HTML.
  for await (const piece of orchestrator.log(id)) log.append(piece);
  const job = await orchestrator.wait(id);
  status.textContent = `Job ${id}: ${job.status}${job.message ? `, ${job.message}` : ""}`;
  results.href = URL.createObjectURL(await orchestrator.results(id));
  results.download = `job-${id}.zip`;
  results.hidden = false;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  log.textContent = "";
  results.hidden = true;
  try {
    await run();
  } catch (error) {
    status.textContent = `That failed: ${error.message}`;
  }
});
