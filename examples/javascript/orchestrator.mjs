// An orchestrator over fetch alone: the same file in a browser and in Node 18 or newer. No package is needed.

export class Refused extends Error {
  // `code` is a word for programs, `message` a sentence for people.
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Orchestrator {
  // `url` as https://jobs.example.org; `token` as `orchestrator token create` prints it.
  constructor(url, token) {
    this.url = url.replace(/\/+$/, "");
    this.headers = token ? { Authorization: `Bearer ${token}` } : {};
  }

  // Send a job. `files`: File objects of a form, or [name, text or Blob] each; one of them is run.sh.
  // The key makes it safe to send again: the same key is the same job. Whatever else is given goes along as a field
  // of the upload: name, tags (a list), max_runtime, memory, callback_url and so on.
  async submit(files, { service, user, key = crypto.randomUUID(), ...fields }) {
    const form = new FormData();
    form.append("service", service);
    form.append("user_id", String(user));
    for (const [name, value] of Object.entries(fields)) {
      if (value !== undefined && value !== null) form.append(name, String(value));
    }
    for (const file of files) {
      const [name, content] = Array.isArray(file) ? file : [file.name, file];
      form.append("file", content instanceof Blob ? content : new Blob([content]), name);
    }
    const answer = await this.#again(() =>
      this.#ask("/upload", { method: "POST", body: form, headers: { "Idempotency-Key": key } }),
    );
    return answer.json();
  }

  async job(id) {
    return (await this.#ask(`/v1/jobs/${id}`)).json();
  }

  // The job once it has ended. Each request waits for it, for 30 s at most, so that nothing is asked in vain.
  async wait(id) {
    for (;;) {
      const answer = await this.#again(() => this.#ask(`/v1/jobs/${id}?wait=30&until=ended`));
      const job = await answer.json();
      if (job.over) return job;
    }
  }

  // Have `callbackUrl` told once all of these jobs have ended, by one callback: at once if they have.
  async createBatch(jobs, callbackUrl, { key = crypto.randomUUID() } = {}) {
    const headers = { "Idempotency-Key": key, "Content-Type": "application/json" };
    const body = JSON.stringify({ jobs, callback_url: callbackUrl });
    return (await this.#again(() => this.#ask("/v1/batches", { method: "POST", headers, body }))).json();
  }

  // What the job prints, piece by piece while it prints it, to its end.
  async *log(id) {
    const answer = await this.#ask(`/v1/jobs/${id}/logs?follow=1`);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
  }

  // Have a job killed. Refused (409) if it has ended otherwise.
  async cancel(id) {
    return (await this.#ask(`/terminate/${id}`, { method: "POST" })).json();
  }

  // A new job with the files that this one began with.
  async rerun(id, { key = crypto.randomUUID() } = {}) {
    const headers = { "Idempotency-Key": key };
    return (await this.#again(() => this.#ask(`/v1/jobs/${id}/rerun`, { method: "POST", headers }))).json();
  }

  // All that the job has left, as a zip.
  async results(id) {
    return (await this.#ask(`/v1/jobs/${id}/results`)).blob();
  }

  async #ask(path, options = {}) {
    const headers = { ...this.headers, ...options.headers };
    const answer = await fetch(this.url + path, { ...options, headers, credentials: "omit" });
    if (answer.ok) return answer;
    // Below /v1 as RFC 9457 has it, on the routes of 2.x with a `message`; a proxy may say something else.
    const told = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, told.code ?? "", told.detail ?? told.message ?? answer.statusText);
  }

  // A few times, when the connection broke off or the server is busy or being restarted.
  async #again(ask, times = 5) {
    for (let pause = 500; ; pause *= 2) {
      try {
        return await ask();
      } catch (error) {
        const passes = error instanceof TypeError || [429, 502, 503, 504].includes(error.status);
        if (!passes || --times === 0) throw error;
        await new Promise((resolve) => setTimeout(resolve, pause * (0.5 + Math.random())));
      }
    }
  }
}
