// The form to log in with.

import { h } from "./dom.js";
import { logIn } from "./session.js";

/** `why` says why it is shown, or is empty; `entered()` is called once somebody is logged in. */
export function loginForm(why, entered) {
  const token = h("input", {
    type: "password",
    name: "token",
    required: true,
    maxlength: 1000,
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    "aria-describedby": "login-hint",
  });
  const enter = h("button", { type: "submit" }, "Log in");
  const wrong = h("div", { role: "alert" });
  const form = h(
    "form",
    { class: "login" },
    h("h1", { tabindex: -1 }, "Log in"),
    why && h("p", { role: "status" }, why),
    h("label", null, "Token", token),
    h("p", { class: "buttons" }, enter),
    wrong,
    h(
      "p",
      { id: "login-hint" },
      h("small", null, "An operator makes one with ", h("code", null, COMMAND), ". "),
      h("small", null, "The server names the file with its own when it starts."),
    ),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (enter.disabled) return;
    enter.disabled = true;
    wrong.replaceChildren();
    try {
      // The server's own file has it as a header.
      await logIn(token.value.trim().replace(/^(authorization: *)?bearer +/i, ""));
      token.value = "";
      entered();
    } catch (error) {
      wrong.replaceChildren(h("p", { class: "trouble" }, told(error)));
      token.setAttribute("aria-invalid", "true");
      token.select();
      token.focus();
      if (error.status === undefined) throw error;
    } finally {
      enter.disabled = false;
    }
  });
  return form;
}

const COMMAND = "orchestrator token create";

function told(error) {
  if (error.code === "bad_token") return "This token is not known, or has expired or been revoked.";
  if (error.status === 429) return `There were too many failed tries. Try again in ${error.wait} s.`;
  return error.message;
}
