// Submit, wait, fetch: with types that openapi-typescript makes out of the OpenAPI document (README.md).
// ORCHESTRATOR_URL and ORCHESTRATOR_TOKEN say where; the service and the user are arguments.

import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

const { ORCHESTRATOR_URL: baseUrl, ORCHESTRATOR_TOKEN: token } = process.env;
const [service = "example", user = "1"] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl, headers: token ? { Authorization: `Bearer ${token}` } : {} });

/** The answer's body; throws what came instead. */
function body<Data>(answer: { data?: Data; error?: unknown }): Data {
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

const script = "mkdir out; echo hello; printf '\\211PNG' > 'out/best model.png'\n";

const accepted = body(
  await client.POST("/upload", {
    // Sent again with the same key, it is the same job.
    params: { header: { "Idempotency-Key": crypto.randomUUID() } },
    body: { user_id: Number(user), service, name: "from TypeScript", tags: ["a", "b"], max_runtime: 60 },
    bodySerializer(fields) {
      const form = new FormData();
      for (const [name, value] of Object.entries(fields)) form.append(name, String(value));
      form.append("file", new Blob([script]), "run.sh");
      return form;
    },
  }),
);

const path = { id: accepted.id };
let job = body(await client.GET("/v1/jobs/{id}", { params: { path } }));
while (job.ended_at === null) {
  job = body(await client.GET("/v1/jobs/{id}", { params: { path, query: { wait: 30 } } }));
}

// What is not JSON is asked for as what it is.
const log = body(await client.GET("/v1/jobs/{id}/logs", { params: { path }, parseAs: "text" }));
const zip = body(await client.GET("/v1/jobs/{id}/results", { params: { path }, parseAs: "arrayBuffer" }));
const file = body(
  await client.GET("/v1/jobs/{id}/files/{path}", {
    params: { path: { ...path, path: "out/best model.png" } },
    parseAs: "arrayBuffer",
  }),
);

// A refusal has a type, too.
const refused = await client.GET("/v1/jobs/{id}", { params: { path: { id: 4294967295 } } });

console.log(
  JSON.stringify({
    status: job.status,
    tags: job.tags,
    log,
    zip: zip.byteLength,
    file: [...new Uint8Array(file)],
    refused: refused.error?.code,
  }),
);
