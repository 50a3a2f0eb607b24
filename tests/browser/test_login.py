"""Who may see and order what on the dashboard: through a proxy, behind which nobody is a program of this
machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from support.peers.prefix_proxy import PrefixProxy, prefix_proxy
from support.processes.flaws import flaws
from support.processes.gates import gate
from support.processes.processes import Place, Started
from support.processes.watched_page import Watched

from orchestrator.client import Client

SITE, PORT = "http://evil.example/", "http://127.0.0.1:8123/"
"""A page of another site, and one of another port of this host, with which the browser sends the cookie."""
GOING = ("Queued", "Processing", "Submitted", "Prepared", "Running")
PROXY = (b"Via: 1.1 proxy",)
FORGED = """url => {
  const form = document.createElement("form");
  form.method = "POST";
  form.action = url;
  document.body.append(form);
  form.submit();
}"""


@pytest.fixture
def proxy(shared: Started) -> Iterator[PrefixProxy]:
    with prefix_proxy("", shared.url, PROXY) as found:
        yield found


@pytest.fixture
def at_form(open_page: Callable[..., Watched], proxy: PrefixProxy) -> Callable[..., Page]:
    """The dashboard at what stands behind #, before anybody has logged in."""

    def open_one(at: str = "/", **given: Any) -> Page:
        page = open_page(proxy.origin, f"/dashboard#{at}", may_fail=True, **given).page
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        return page

    return open_one


def token(client: Client, role: str, **given: Any) -> str:
    return client.create_token(role, **given)["secret"]


def log_in(page: Page, secret: str) -> None:
    page.get_by_label("Token").fill(secret)
    page.keyboard.press("Enter")


def submit(client: Client, script: str = "echo done", user: int = 3, name: str | None = None) -> int:
    return client.submit({"run.sh": script.encode()}, service="example", user=user, name=name).id


def links(page: Page) -> list[str]:
    return page.locator("nav a:visible").all_inner_texts()


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_who_logs_in_is_where_they_wanted_to_be(
    at_form: Callable[..., Page], client: Client, width: int, scheme: str
) -> None:
    client.wait(number := submit(client))
    page = at_form(f"/jobs/{number}", width=width, scheme=scheme)
    field = page.get_by_label("Token")
    expect(field).to_be_focused()
    assert (field.get_attribute("type"), field.get_attribute("autocomplete")) == ("password", "off")
    expect(page.locator("nav")).to_be_hidden()
    assert flaws(page) == {}
    log_in(page, "jobo_wrong")
    expect(page.locator(".login [role=alert]")).to_have_text(
        "This token is not known, or has expired or been revoked."
    )
    expect(field).to_be_focused()
    assert flaws(page) == {}
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    log_in(page, token(client, "operator", name="Ada"))
    expect(page.locator("h1")).to_have_text(f"Job {number}")
    expect(page.locator("h1")).to_be_focused()
    expect(page.locator(".log")).to_have_text("done\n")
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#who")).to_contain_text("Ada (operator)")
    assert flaws(page) == {}
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # The cookie is for the server alone: no script sees it.
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Lax"
    assert page.evaluate("document.cookie") == ""
    page.reload()
    expect(page.locator("h1")).to_have_text(f"Job {number}")
    page.get_by_role("button", name="Run again").click()
    expect(page.locator("main")).to_contain_text(f"Runs job {number} again")
    if width < 600:
        page.get_by_role("button", name="Menu").click()
    page.get_by_role("button", name="Log out").click()
    expect(page.locator("main")).to_contain_text("You are logged out.")
    assert page.context.cookies() == []
    page.reload()
    expect(page.get_by_label("Token")).to_be_visible()


def test_too_many_tries_are_told_to_wait(at_form: Callable[..., Page], client: Client) -> None:
    page = at_form()
    told = page.locator(".login [role=alert]")
    for _ in range(100):  # slow ones are more until they are too many
        log_in(page, "wrong")
        expect(told).not_to_be_empty()
        if "too many" in told.inner_text():
            break
    expect(told).to_contain_text("There were too many failed tries. Try again in")
    log_in(page, token(client, "operator"))
    expect(page.locator("h1")).to_have_text("Overview")


def test_a_session_that_has_ended_asks_to_log_in_and_goes_on(
    at_form: Callable[..., Page], client: Client
) -> None:
    client.wait(number := submit(client))
    page = at_form("/services")
    made = client.create_token("operator", name="Ada")
    log_in(page, made["secret"])
    expect(page.locator("h1")).to_have_text("Services")
    # Its stream is cut: nobody has to ask for anything.
    client.revoke_token(made["id"])
    expect(page.locator("main")).to_contain_text("The session has ended.")
    expect(page.get_by_label("Token")).to_be_focused()
    expect(page.locator("#who")).to_be_hidden()
    # Another address meanwhile is the one where one goes on.
    page.evaluate("at => { location.hash = at; }", f"/jobs/{number}")
    log_in(page, token(client, "operator"))
    expect(page.locator("h1")).to_have_text(f"Job {number}")
    expect(page.locator(".log")).to_have_text("done\n")


def test_a_cookie_that_is_gone_asks_to_log_in(at_form: Callable[..., Page], client: Client) -> None:
    page = at_form("/services")
    log_in(page, token(client, "operator"))
    expect(page.get_by_role("button", name="Pause service example")).to_be_visible()
    page.context.clear_cookies()
    page.evaluate("at => { location.hash = at; }", "/nodes")
    expect(page.locator("main")).to_contain_text("The session has ended.")
    log_in(page, token(client, "operator"))
    expect(page.locator("h1")).to_have_text("Nodes")


def test_a_program_of_this_machine_needs_no_login(dashboard: Callable[..., Page]) -> None:
    page = dashboard("/services")
    expect(page.locator("#who")).to_have_text("local (operator) Log out", use_inner_text=False)
    expect(page.get_by_role("button", name="Log out")).to_be_hidden()
    expect(page.get_by_role("button", name="Pause service example")).to_be_visible()


def test_a_server_that_is_away_is_no_wrong_token(
    at_form: Callable[..., Page], client: Client, proxy: PrefixProxy
) -> None:
    page = at_form("/jobs")
    there, proxy.target = proxy.target, None
    proxy.cut()
    log_in(page, secret := token(client, "reader"))
    expect(page.locator(".login [role=alert]")).to_contain_text("The server answered with status 502.")
    proxy.target = there
    log_in(page, secret)
    expect(page.locator("h1")).to_have_text("Jobs")


def test_roles_see_different_things(at_form: Callable[..., Page], client: Client) -> None:
    own, others = submit(client, user=3, name="own job"), submit(client, user=4, name="job of others")
    client.wait(own)
    client.wait(others)

    operator = at_form("/jobs")
    log_in(operator, token(client, "operator"))
    expect(operator.locator("tbody")).to_contain_text("job of others")
    seen = ["Overview", "Jobs", "Submit", "Services", "Nodes", "Scaling", "Usage", "Audit", "API"]
    assert links(operator) == seen
    operator.get_by_role("link", name="Nodes").click()
    expect(operator.get_by_role("button", name="Drain node")).to_be_visible()
    operator.get_by_role("link", name="Services").click()
    expect(operator.get_by_role("button", name="Pause service example")).to_be_visible()
    expect(operator.locator("article")).to_contain_text("Nobody waits.")

    user = at_form("/")
    refused = watch_refusals(user)
    log_in(user, token(client, "user", user=3, name="Ada"))
    expect(user.locator("#who")).to_contain_text("Ada (user 3)")
    expect(user.locator("h1")).to_have_text("Jobs")
    expect(user.locator("tbody")).to_contain_text("own job")
    expect(user.locator("tbody")).not_to_contain_text("job of others")
    expect(user.locator("nav [aria-current]")).to_have_text("Jobs")
    expect(user.get_by_label("User")).to_be_hidden()
    assert links(user) == ["Jobs", "Submit", "Services", "Usage", "API"]
    user.get_by_role("link", name="Services").click()
    expect(user.locator("article")).to_contain_text("Runs for one user")
    expect(user.get_by_role("button", name="Pause")).to_have_count(0)
    user.evaluate("at => { location.hash = at; }", f"/jobs/{own}")
    expect(user.locator(".log")).to_have_text("done\n")
    expect(user.get_by_role("button", name="Run again")).to_be_visible()
    expect(user.locator(".facts a[href^='#/nodes']")).to_have_count(0)
    user.get_by_role("link", name="Submit").click()
    user.get_by_label("Script").fill("echo mine")
    expect(user.get_by_label("User")).to_have_count(0)
    user.get_by_role("button", name="Submit").click()
    expect(user.locator(".log")).to_have_text("mine\n")
    user.evaluate("at => { location.hash = at; }", "/nodes")
    expect(user.locator("h1")).to_have_text("No such page")
    assert refused == []
    user.evaluate("at => { location.hash = at; }", f"/jobs/{others}")
    expect(user.locator("main")).to_contain_text(f"There is no job {others}.")

    reader = at_form("/")
    refused = watch_refusals(reader)
    log_in(reader, token(client, "reader"))
    expect(reader.locator("main")).to_contain_text("Nodes ready")
    expect(reader.locator("#connection")).to_have_text("renewed every few seconds")
    assert links(reader) == [one for one in seen if one not in ("Submit", "Audit")]
    for name, text in (("Jobs", "shown"), ("Services", "Runs for one user"), ("Nodes", "are ready")):
        reader.get_by_role("link", name=name, exact=True).click()
        expect(reader.locator("main")).to_contain_text(text)
        expect(reader.locator("[data-order], [data-select]")).to_have_count(0)
        expect(reader.locator("main")).not_to_contain_text("own job")
    reader.evaluate("at => { location.hash = at; }", f"/jobs/{own}")
    expect(reader.locator(".standing")).to_contain_text("Completed")
    expect(reader.locator("[data-order]")).to_have_count(0)
    for hidden in (".log", ".life"):
        expect(reader.locator(hidden)).to_be_hidden()
    expect(reader.get_by_role("link", name="zip")).to_have_count(0)
    assert refused == []


def watch_refusals(page: Page) -> list[str]:
    """What is asked for from now on, and is not for the role."""
    refused: list[str] = []
    page.on("response", lambda one: refused.append(one.url) if one.status == 403 else None)
    return refused


def test_a_forged_order_is_refused(at_form: Callable[..., Page], client: Client, tmp_path: Path) -> None:
    with gate(tmp_path / "gate") as shut:
        number = submit(client, shut.wait)
        order = f"/terminate/{number}"
        page = at_form(f"/jobs/{number}")
        origin = page.url.partition("/dashboard")[0]
        for attacker in (SITE, PORT):
            page.context.route(
                f"{attacker}**", lambda route: route.fulfill(body="<body>", content_type="text/html")
            )
        for logged_in in (False, True):
            if logged_in:
                log_in(page, token(client, "operator"))
                expect(page.locator("h1")).to_have_text(f"Job {number}")
            by_port = "X-Session-Token" if logged_in else "this needs a token"
            for attacker, why in ((SITE, "may not give orders here"), (PORT, by_port)):
                forger = page.context.new_page()
                forger.goto(attacker)
                with forger.expect_response(lambda one: order in one.url) as got:
                    forger.evaluate(FORGED, origin + order)
                assert got.value.status in (401, 403), attacker
                assert why in got.value.json()["message"], attacker
                forger.close()
        assert client.job(number).status in GOING
        page.get_by_role("button", name=f"Cancel job {number}").click()
        page.get_by_role("dialog").get_by_role("button", name=f"Cancel job {number}").click()
        expect(page.locator("#said")).to_have_text(f"Job {number} is cancelled.")


class AbortUntilOrdered:
    """What the page asks for is not answered before it has given an order."""

    ordered = False

    def __call__(self, route: Route) -> None:
        self.ordered |= route.request.method != "GET"
        if self.ordered:
            route.continue_()
        else:
            route.abort()


@pytest.mark.parametrize("order", ["Cancel", "Run again", ""])
def test_no_order_is_given_as_somebody_else(
    at_form: Callable[..., Page], client: Client, tmp_path: Path, order: str
) -> None:
    with gate(tmp_path / "gate") as shut:
        number = submit(client, shut.wait)
        page = at_form(f"/jobs/{number}")
        if order:  # what follows the job and its output would be cut, and say so first
            page.route("**/v1/events*", lambda route: route.abort())
            page.route("**/logs?**", lambda route: route.abort())
        log_in(page, token(client, "operator", name="Ada"))
        expect(page.get_by_role("button", name=f"Cancel job {number}")).to_be_visible()
        expect(
            page.locator(".life")
        ).to_be_visible()  # all is answered that would be refused, and say so first
        if order:
            page.route(re.compile("/v1/jobs/|/terminate/"), AbortUntilOrdered())
        jobs = len(list(client.jobs()))
        # In another window, of which this one knows nothing.
        answer = page.context.request.post(
            page.url.partition("/dashboard")[0] + "/v1/session",
            data={"token": token(client, "reader", name="Eve")},
        )
        assert answer.status == 201
        if order:
            page.locator("main").get_by_role("button", name=order).click()
            if order == "Cancel":
                page.get_by_role("dialog").get_by_role("button", name="Cancel job").click()
            expect(page.locator("#said")).to_contain_text("Nothing was ordered.")
        expect(page.locator("#who")).to_contain_text("Eve (reader)")
        expect(page.locator(".standing")).to_be_visible()
        expect(page.locator("[data-order]")).to_have_count(0)
        assert client.job(number).status in GOING
        assert len(list(client.jobs())) == jobs
        shut.open()
        client.wait(number)


def test_it_logs_in_below_a_path(here: Place, open_page: Callable[..., Watched]) -> None:
    with prefix_proxy("/portal", None, PROXY) as proxy:
        server = here.server(config="[services.example]\n", PUBLIC_URL=proxy.url)
        proxy.target = server.url
        page = open_page(proxy.origin, "/portal/dashboard#/services", may_fail=True).page
        with Client(server.url) as client:
            log_in(page, token(client, "operator"))
        expect(page.locator("h1")).to_have_text("Services")
        (cookie,) = page.context.cookies()
        assert cookie["path"] == "/portal"
        page.get_by_role("button", name="Pause service example").click()
        page.get_by_role("dialog").get_by_role("button", name="Pause", exact=True).click()
        expect(page.locator("article")).to_contain_text("Paused since")
        # The API's page orders by the same cookie.
        page.get_by_role("link", name="API").click()
        resume = page.locator(".opblock", has_text="/v1/services/{name}/resume")
        resume.locator(".opblock-summary-control").click()
        resume.get_by_role("button", name="Try it out").click()
        resume.get_by_placeholder("name").fill("example")
        resume.get_by_role("button", name="Execute").click()
        expect(resume.locator(".live-responses-table")).to_contain_text('"paused": null')
        page.get_by_role("link", name="Dashboard").click()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        assert page.context.cookies() == []
        page.goto("about:blank")
        assert proxy.outside == []
