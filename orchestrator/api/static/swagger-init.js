// Orders of who is logged in by a cookie show what only pages of ours can read.
const session = fetch("v1/session", { cache: "no-store" }).then(
  (answer) => (answer.ok ? answer.json() : null),
  () => null,
);

window.ui = SwaggerUIBundle({
  url: "api-docs/openapi.json",
  dom_id: "#swagger-ui",
  validatorUrl: null,
  async requestInterceptor(request) {
    const token = (await session)?.session_token;
    if (token && request.method && request.method !== "GET") request.headers["X-Session-Token"] = token;
    return request;
  },
});
