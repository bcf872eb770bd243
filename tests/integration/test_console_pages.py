"""The console in a real browser: each page empty, full, stale and refused, on a phone and on a desk, in the light and
in the dark; and each act, from the count to the line that it leaves.

One browser for all. With `PUSHSVC_TEST_PICTURES` the pages are left there as pictures.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .chromium import PATIENCE, Page, browser, needs_browser
from .console_rig import PUSH, STATES, Rig
from .harness import KEY, apns, running_service

pytestmark = needs_browser

AXE = (Path(__file__).parents[1] / "vendor" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
PICTURES = os.environ.get("PUSHSVC_TEST_PICTURES")

PAGES = {
    "overview": "/console",
    "pushes": "/console/pushes",
    "schedules": "/console/pushes?tab=schedules",
    "push": f"/console/pushes/{PUSH}",
    "devices": "/console/devices?where=tags.plan%20%3D%3D%20'pro'",
    "device": "/console/devices/phone-1",
    "failed": "/console/failed",
    "feedback": "/console/feedback",
    "live": "/console/live",
    "webhooks": "/console/webhooks",
    "send": "/console/send",
    "keys": "/console/keys",
}
LOOKS = [(1280, "light"), (360, "dark")]
"""Widths and schemes do not depend on each other: each of both is met."""
ALL_LOOKS = [*LOOKS, (1280, "dark"), (360, "light")]
"""For pictures, that people look at."""

SETTLED = "!!document.querySelector('main h1, .login h1') && !document.querySelector('[aria-busy]')"
DRAWN = "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
FAULTS = """
axe.run(document, {resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa']})
  .then(({violations}) => violations.map(each => [each.id, ...each.nodes.slice(0, 3).map(node => node.target[0])]))
"""
"""What axe-core finds, with the places."""
WIDE = """
[...document.querySelectorAll('main *')].filter(each => !each.closest('pre, .chart, .sr, thead')
  && each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 120))
"""
CUT = """
[...document.querySelectorAll('input[placeholder]')].filter(each => {
  const style = getComputedStyle(each), ruler = document.createElement('canvas').getContext('2d');
  ruler.font = style.font;
  const inner = each.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  return inner > 0 && ruler.measureText(each.placeholder).width > inner;
}).map(each => each.outerHTML)
"""
"""Fields whose placeholder does not fit into them."""
SCROLLED = """
[...document.querySelectorAll('pre.command')].filter(each => each.scrollWidth > each.clientWidth)
  .map(each => each.innerText)
"""
"""Commands that can be read only by scrolling."""


@asynccontextmanager
async def console(**rig: Any) -> AsyncIterator[tuple[Page, Rig]]:
    async with Rig(**rig).running() as service, browser() as page:
        await page.size(1280, 900)
        yield page, service


async def until(page: Page, script: str) -> None:
    """Wait until a JavaScript expression is true."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not await page.look(script):
        assert asyncio.get_running_loop().time() < deadline, (script, await page.look("document.body.innerText"))
        await asyncio.sleep(0.02)


async def visit(page: Page, address: str) -> None:
    """Go to a page as a link within the console does."""
    await page.look(f"history.pushState(null, '', {json.dumps(address)}); dispatchEvent(new PopStateEvent('popstate'))")
    await asyncio.sleep(0)
    await page.look(DRAWN)
    await until(page, SETTLED)


async def text(page: Page, of: str = "main") -> str:
    found: str = await page.look(f"document.querySelector({json.dumps(of)})?.innerText ?? ''")
    return found


async def press(page: Page, label: str) -> None:
    """Click the button or link of this name, in the question that is open or else in the page."""
    of = "(document.querySelector('dialog') ?? document.querySelector('main') ?? document)"
    found = f"[...{of}.querySelectorAll('button, a')].find(each => each.innerText.trim() === {json.dumps(label)})"
    await until(page, f"!!{found}")
    await page.look(f"(({found}).focus(), ({found}).click())")


async def write(page: Page, selector: str, value: str) -> None:
    await until(page, f"!!document.querySelector({json.dumps(selector)})")
    await page.look(
        f"(() => {{ const field = document.querySelector({json.dumps(selector)}); field.focus();"
        f" field.value = {json.dumps(value)}; field.dispatchEvent(new Event('input', {{bubbles: true}}));"
        f" field.dispatchEvent(new Event('change', {{bubbles: true}})); }})()"
    )


async def key(page: Page, name: str) -> None:
    character = {"text": "\r" if name == "Enter" else name} if len(name) == 1 or name == "Enter" else {}
    code = {"Enter": 13, "Escape": 27, "ArrowDown": 40}.get(name, 0)
    for kind in ("keyDown", "keyUp"):
        more = character if kind == "keyDown" else {}
        await page.call("Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=code, **more)


async def test_every_page_in_every_state_and_look() -> None:
    async with console() as (page, rig):
        for state in STATES:
            rig.state = state
            await page.size(1280, 900)
            await page.open(f"{rig.url}/console")
            await until(page, SETTLED)
            await page.look(f"{AXE}; true")
            for place, (name, address) in enumerate(PAGES.items()):
                await visit(page, address)
                # A full page has the most to lay out; of the other states every second page is met in each look.
                one = LOOKS[place % 2 :][:1]
                for width, scheme in ALL_LOOKS if PICTURES else LOOKS if state == "full" else one:
                    await page.scheme(scheme)
                    await page.size(width, 900)
                    await page.look(DRAWN)
                    where = (name, state, width, scheme)
                    assert await page.look("document.documentElement.scrollWidth") <= width, where
                    assert await page.look(WIDE) == [], where
                    assert await page.look(CUT) == [], where
                    assert await page.look(SCROLLED) == [], where
                    assert await page.look(FAULTS) == [], where
                    if PICTURES:
                        tall = await page.look("document.documentElement.scrollHeight")
                        await page.size(width, min(tall, 3000))
                        await page.picture(Path(PICTURES) / f"console-{name}-{state}-{width}-{scheme}.png")
                seen = await text(page)
                if state == "refused" and name != "send":
                    assert "Redis cannot be reached" in seen, where
                else:
                    assert "undefined" not in seen, where
                    assert "NaN" not in seen, where
                    assert "[object" not in seen, where
            if state != "refused":
                assert page.complaints == []
            page.complaints.clear()
        assert [url for url in page.requests if not url.startswith((rig.url, "data:", "about:"))] == []


async def test_the_first_screen_is_small_and_says_what_is_wrong_and_how_old_it_is() -> None:
    async with console(state="alarm") as (page, rig):
        await page.open(f"{rig.url}/console")
        await until(page, SETTLED)
        loaded = "performance.getEntriesByType('resource').filter(each => !each.name.includes('/vendor/uplot'))"
        assert await page.look(f"{loaded}.reduce((sum, each) => sum + each.decodedBodySize, 0)") < 100_000
        assert "Apple refuses the signing key" in await text(page, "main h1")
        # The remedy is in the first sentence. One cause is shown once, and every other page leads back to it.
        assert "Check key_id and team_id" in await text(page, "main h1")
        assert "12 dead, 1 suspect, 4 failed" in await text(page)
        assert (await text(page)).count("Apple refuses the signing key") == 1
        assert (await text(page)).lower().count("check key_id and team_id") == 1
        await press(page, "Check now")
        await until(page, "document.querySelector('main').innerText.includes('No errors, 1 warning.')")
        assert "Nothing is wrong" not in await text(page)
        await visit(page, "/console/keys")
        await page.look("document.querySelector('.strip').click()")
        await until(page, "location.pathname === '/console'")
        # A lost stream is shown, and the verdict is no longer that of now.
        rig.state = "stale"
        await until(page, "document.querySelector('header').innerText.includes('connecting again')")
        assert " ago: " in await text(page, "main h1")
        # A cause that the verdict names with its remedy, and that leads nowhere, stands there alone.
        await until(page, "document.querySelector('main h1').innerText.includes('apps.shop.nonsense: unknown key')")
        assert await page.look("document.querySelectorAll('.verdict .cause').length") == 0


async def test_a_value_without_neighbours_is_drawn() -> None:
    red = """
(() => {
  const canvas = document.querySelector('.chart canvas');
  const { data } = canvas?.getContext('2d').getImageData(0, 0, canvas.width, canvas.height) ?? { data: [] };
  return data.some((value, place) => place % 4 === 0 && value > data[place + 1] + 60 && value > data[place + 2] + 60);
})()
"""
    async with console(state="alarm") as (page, rig):
        await page.open(f"{rig.url}/console/failed")
        await until(page, red)


async def test_reasons_say_whether_a_replay_may_succeed_as_it_is() -> None:
    async with console() as (page, rig):
        await page.open(f"{rig.url}/console/failed")
        shown = """
(() => {
  const table = document.querySelector('table[aria-label="reasons"]');
  const place = table && [...table.querySelectorAll('th')].findIndex(each => each.innerText === 'retryable');
  const rows = [...table?.querySelectorAll('tbody tr') ?? []];
  return rows.map(({ cells }) => [cells[0].innerText, cells[place].innerText]);
})()
"""
        await until(page, f"{shown.strip()}.length")
        assert await page.look(shown) == [["BadTopic", "no"], ["QUOTA_EXCEEDED", "●\nyes"]]


async def test_acts_count_first_and_are_confirmed_by_the_count() -> None:
    async with console() as (page, rig):
        await page.open(f"{rig.url}/console/failed?reason=BadTopic")
        await press(page, "Replay what matches")
        await until(page, "document.querySelector('dialog').innerText.includes('3,412 dead letters match')")
        assert rig.calls == [("POST", "/v1/failed/replay", "0", {"reason": "BadTopic", "dry_run": True})]
        await until(page, "document.activeElement.name === 'typed'")
        start = "[...document.querySelectorAll('dialog button')].find(each => each.classList.contains('primary'))"
        assert await page.look(f"{start}.disabled")
        await write(page, "dialog input[name=typed]", "3411")
        assert await page.look(f"{start}.disabled")
        await write(page, "dialog input[name=typed]", "3412")
        await write(page, "dialog input[name=rate]", "50")
        await until(page, f"!{start}.disabled")
        await page.look(f"{start}.click()")
        await until(page, "document.querySelector('dialog').innerText.includes('Done.')")
        body = {"reason": "BadTopic", "limit": 3412, "rate": 50}
        assert rig.calls[1:] == [("POST", "/v1/failed/replay", "3412", body)]
        assert "3,400 of 3,412" in await text(page, "dialog")
        await key(page, "Escape")
        await until(page, "!document.querySelector('dialog')")

        # What cannot be undone is confirmed by its name, and leaving it does nothing.
        rig.calls.clear()
        await visit(page, "/console/devices/phone-1")
        await press(page, "Erase user")
        await write(page, "dialog input[name=typed]", "user-")
        assert await page.look(f"{start}.disabled")
        await press(page, "Close")
        await until(page, "!document.querySelector('dialog')")
        assert rig.calls == []
        assert await page.look("document.activeElement.innerText") == "Erase user"

        await visit(page, f"/console/pushes/{PUSH}")
        await press(page, "Cancel the rest")
        await write(page, "dialog input[name=typed]", "151")
        await page.look(f"{start}.click()")
        await until(page, "document.querySelector('dialog')?.innerText.includes('Done.') ?? true")
        assert rig.calls == [("DELETE", f"/v1/push/{PUSH}", "151", None)]


async def test_a_push_is_written_as_a_form_or_as_json_and_seen_before_it_is_sent() -> None:
    async with console() as (page, rig):
        await page.open(f"{rig.url}/console/send")
        await write(page, "input[placeholder='u1 u2']", "u1 u2")
        await until(page, "JSON.parse(document.querySelector('textarea').value).to.users.length === 2")
        document = {"to": {"topic": "news"}, "notification": {"title": "Rain tonight"}, "ttl": 60}
        await write(page, "textarea", json.dumps(document))
        await until(page, "document.querySelector('input[placeholder=news]')?.value === 'news'")
        await until(page, "document.querySelector('main').innerText.includes('3,812 of 4,096 bytes')")
        assert ("POST", "/v1/admin/preview", "0", document) in rig.calls
        assert "APNs shows no image" in await text(page)
        await press(page, "Send")
        await write(page, "dialog input[name=typed]", "2")
        await press(page, "Send")
        await until(page, f"location.pathname === '/console/pushes/{PUSH}'")
        assert rig.calls[-1] == ("POST", "/v1/push", "2", document)
        # What was sent is shown, and begins another push.
        await visit(page, f"/console/pushes/{PUSH}")
        await until(page, "document.querySelector('main').innerText.includes('POST /3/device/<token>')")
        assert "where tags.plan == 'pro'" in await text(page)
        moments = await page.look("[...document.querySelectorAll('main .legend li')].map(each => each.innerText)")
        known = ["accepted", "first answer", "first failure", "replayed", "last answer", "now"]
        assert [next(name for name in known if name in moment) for moment in moments] == known
        rig.calls.clear()
        await press(page, "Send again as a copy")
        await until(page, "location.pathname === '/console/send'")
        copy: dict[str, Any] = {"to": {"where": "tags.plan == 'pro'"}, "notification": {"title": "Order 7 shipped"}}
        copy |= {"lane": "urgent", "dry_run": True}
        await until(page, "document.querySelector('textarea')?.value.includes('Order 7 shipped')")
        assert json.loads(await page.look("document.querySelector('textarea').value")) == copy
        await until(page, "document.querySelector('main').innerText.includes('3,812 of 4,096 bytes')")
        assert rig.calls == [("POST", "/v1/admin/preview", "0", copy)]
        assert "ttl, dry_run. Fill in what you need. The copy is a dry run" in await text(page)
        await press(page, "Send")
        await until(page, "document.querySelector('dialog')?.innerText.includes('may lack ttl, dry_run')")
        assert "no device gets it" in await page.look("document.querySelector('dialog').innerText")
        await press(page, "Close")
        await write(page, "textarea", "{")
        await until(page, "!!document.querySelector('textarea[aria-invalid=true]')")


async def test_the_address_is_the_state_and_the_keyboard_is_enough() -> None:
    async with console() as (page, rig):
        await page.open(f"{rig.url}/console/pushes")
        await press(page, "sending")
        await until(page, "location.search === '?state=sending'")
        await until(page, SETTLED)
        await press(page, "Next page")
        await until(page, "location.search.includes('cursor=next')")
        await page.look("history.back()")
        await until(page, "location.search === '?state=sending'")
        await page.look(DRAWN)
        await until(page, SETTLED)
        await until(page, "document.querySelectorAll('main tbody tr').length > 2")

        await page.look("document.activeElement.blur()")
        await key(page, "ArrowDown")
        await key(page, "ArrowDown")
        assert await page.look("document.activeElement.closest('tr').rowIndex") == 2
        await key(page, "?")
        await until(page, "!!document.querySelector('dialog')?.open")
        shown = "[...document.querySelectorAll('dialog kbd')].map(each => [each.innerText, each.closest('dt')"
        listed = await page.look(f"{shown}.nextElementSibling.innerText])")
        places = {keys[2:]: does.removeprefix("go to ") for keys, does in listed if keys.startswith("g ")}
        await key(page, "Escape")
        await until(page, "!document.querySelector('dialog')")
        # Every page of the navigation has a key.
        links = "[...document.querySelectorAll('nav a')].map(each => [each.innerText, each.getAttribute('href')])"
        addresses = dict(await page.look(links))
        assert sorted(places.values()) == sorted(addresses)
        for letter, title in places.items():
            await key(page, "g")
            await key(page, letter)
            await until(page, f"location.pathname === '{addresses[title]}'")
        await key(page, "/")
        await until(page, "document.activeElement.id === 'search'")
        await write(page, "#search", PUSH)
        await key(page, "Enter")
        await until(page, f"location.pathname === '/console/pushes/{PUSH}'")


async def test_a_session_is_begun_and_ended_and_the_page_asked_for_is_found_again() -> None:
    async with console(signed_in=False) as (page, rig):
        await page.open(f"{rig.url}/console/keys")
        await until(page, SETTLED)
        assert (await text(page, ".login pre")).splitlines()[1].strip() == "--name operator \\"
        await page.look(f"{AXE}; true")
        assert await page.look(FAULTS) == []
        if PICTURES:
            await page.picture(Path(PICTURES) / "console-login.png")
        await write(page, "input[name=key]", "wrong")
        await press(page, "Sign in")
        await until(page, "document.body.innerText.includes('The API key is not known.')")
        await write(page, "input[name=key]", "right")
        await press(page, "Sign in")
        await until(page, "document.querySelector('h1')?.innerText === 'Keys of shop'")

        # A key is shown once, and nowhere is it kept.
        await write(page, "input[name=name]", "new")
        await press(page, "Create key")
        await until(page, "document.body.innerText.includes('pushsvc_xxx')")
        await visit(page, "/console/pushes")
        await visit(page, "/console/keys")
        assert "pushsvc_xxx" not in await text(page, "body")
        assert "pushsvc_xxx" not in await page.look("JSON.stringify({...localStorage})")

        # Where the session ends elsewhere, the next call leads to the sign-in.
        rig.signed_in = False
        await page.open(f"{rig.url}/console/pushes")
        await until(page, "!!document.querySelector('input[name=key]')")


WATCHED = """
window.ticks = [];
window.streams = [];
const every = window.setInterval, Stream = window.EventSource;
window.setInterval = (tick, ...rest) => { window.ticks.push(tick); return every(tick, ...rest); };
window.EventSource = class extends Stream { constructor(...given) { super(...given); window.streams.push(this); } };
"""
"""Keeps what a page does again and again, so that a test need not wait for it."""


async def test_a_phone_has_the_theme_and_the_key_in_its_menu() -> None:
    async with console() as (page, rig):
        await page.size(375, 800)
        await page.open(f"{rig.url}/console/send")
        await until(page, SETTLED)
        assert "theme: " not in await text(page, "header")
        await page.look("document.querySelector('button.menu').click()")
        await until(page, "document.querySelector('nav').innerText.includes('theme: system')")
        assert "key: operator" in await text(page, "nav")
        await page.look("document.querySelector('nav button').click()")
        await until(page, "document.documentElement.dataset.theme === 'light'")
        await page.size(1280, 800)
        assert "theme: " not in await text(page, "nav")


async def test_a_hidden_tab_stops_asking() -> None:
    async with console() as (page, rig):
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=WATCHED)
        await page.open(f"{rig.url}/console")
        await until(page, SETTLED)
        await until(page, "streams.length === 1 && ticks.length > 0")
        hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
        hide += "document.dispatchEvent(new Event('visibilitychange'))"
        await page.look(hide % "true")
        await until(page, "document.querySelector('header').innerText.includes('connecting')")
        await until(page, "streams.every(each => each.readyState === EventSource.CLOSED)")
        page.requests.clear()
        await page.look("(ticks.forEach(tick => tick()), fetch(location.href).then(() => true))")
        # That of the test, which came last; files of the page may still be on their way.
        assert [url for url in page.requests if "/static/" not in url] == [f"{rig.url}/console"]
        await page.look(hide % "false")
        await page.look("ticks.forEach(tick => tick())")
        await until(page, "streams.length === 2")
        await until(page, "document.querySelector('header').innerText.includes('updated')")


async def test_the_whole_service_by_its_console(tmp_path: Path) -> None:
    """Every page before the real calls: none is refused, and what is sent by hand is found again."""
    live = f'\n[apps.shop.live]\nsecret = "{"s" * 32}"\n'
    async with running_service(tmp_path, extra=live) as service, browser() as page:
        device = {"platform": "apns", "token": "ab" * 32, "user": "u1", "tags": {"plan": "pro"}}
        async with service.session.put("/v1/devices/phone-1", json=device) as answer:
            url = str(answer.url.origin())
        push = await service.push(apns("Unregistered", 1) + apns("PayloadTooLarge", 1))
        await service.done(push)
        await page.size(1280, 900)
        await page.open(f"{url}/")
        await write(page, "input[name=key]", KEY)
        await press(page, "Sign in")
        await until(page, "document.querySelector('main h1')?.innerText.length > 10")
        for address in (*PAGES.values(), "/console/devices?user=u1", "/console/devices?topic=news"):
            await visit(page, address.replace(PUSH, push))
            assert not await page.look("!!document.querySelector('main .problem')"), (address, await text(page))
        await visit(page, "/console/failed")
        assert "The payload is larger than Apple accepts" in await text(page)
        # The sign-in asks whether there is a session: that there is none is all that the browser complains of.
        assert len(page.complaints) == 1, page.complaints
        assert "401" in page.complaints[0]

        # What waits for its time shows what will be sent, when, and that nothing has ended.
        later: dict[str, Any] = {"to": {"devices": ["phone-1"]}, "notification": {"title": "Later"}}
        later["send_at"] = (datetime.now(UTC) + timedelta(minutes=119.5)).isoformat(timespec="seconds")
        async with service.session.post("/v1/push", json=later) as answer:
            scheduled = (await answer.json())["id"]
        await visit(page, f"/console/pushes/{scheduled}")
        await until(page, "!!document.querySelector('pre[aria-label=\"request to live\"]')")
        seen = await text(page)
        assert f"{later['send_at'][:10]} {later['send_at'][11:19]} UTC in 1 h 59 min" in seen
        assert "No delivery has ended yet." in seen
        assert ("What will be sent" in seen, "What was sent" in seen) == (True, False)
        assert await page.look("document.querySelector('pre[aria-label=\"request to live\"]').innerText[0]") == "{"
        await visit(page, f"/console/pushes/{scheduled}?outcome=failed")
        await until(page, "document.querySelector('main').innerText.includes('No delivery has this outcome.')")
        # A route that has nothing to send is ready.
        await visit(page, "/console")
        await until(page, "document.querySelector('[aria-label=routes]').innerText.includes('ready')")

        # What is sent by hand is found again, and was sent to the provider.
        await visit(page, "/console/send")
        await write(page, "textarea", json.dumps({"to": {"users": ["u1"]}, "notification": {"title": "By hand"}}))
        await until(page, "document.querySelector('main').innerText.includes('/3/device/')")
        await press(page, "Send")
        await write(page, "dialog input[name=typed]", "1")
        await press(page, "Send")
        await until(page, "location.pathname.startsWith('/console/pushes/')")
        await until(page, "document.querySelector('main').innerText.includes('1 sent')")
        by_hand = (await page.look("location.pathname")).rpartition("/")[2]
        await visit(page, "/console/devices/phone-1")
        await until(page, f"document.querySelector('main').innerText.includes('{by_hand}')")
        assert "Looked at the last 3 pushes of the app" in await text(page)
        assert push not in await text(page)


async def test_why_a_device_is_suspect_when_a_key_was_used_and_a_gateway_lived_is_seen() -> None:
    async with console() as (page, rig):
        await page.open(f"{rig.url}/console/devices/phone-1")
        await until(page, SETTLED)
        await until(page, "document.querySelector('main').innerText.includes('The app was removed from the device')")
        assert "Pruned for" in await text(page)
        await visit(page, "/console/devices/phone-2")
        await until(page, "document.querySelector('main').innerText.includes('Suspect for')")
        await press(page, PUSH)
        await until(page, f"location.pathname === '/console/pushes/{PUSH}'")
        rows = "[...document.querySelectorAll('main tbody tr')].map(row => row.innerText.replaceAll('\\n', ' '))"
        await visit(page, "/console/keys")
        await until(page, f"{rows}.length === 3")
        backend, _, ci = await page.look(rows)
        assert "within the last hour" in backend
        assert "never" in ci
        await visit(page, "/console/live")
        await until(page, f"{rows}.length === 2")
        assert all("gw-" in row and " ago" in row for row in await page.look(rows))
