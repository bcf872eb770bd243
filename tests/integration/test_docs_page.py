"""`/docs` in a real browser: what stands there is seen, in the light and in the dark, and nothing is loaded from afar.

Its page is also tested without one, in `test_intake_http`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pushsvc.api.routes import CALLS

from .chromium import PATIENCE, Page, browser, needs_browser
from .test_intake_kit import Service, running

pytestmark = needs_browser


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with browser() as page:
        yield page


async def until(page: Page, script: str) -> None:
    """Wait until a JavaScript expression is true."""
    async with asyncio.timeout(PATIENCE):
        while not await page.look(script):
            await asyncio.sleep(0.02)


SEEN = """
[...document.querySelectorAll('main section.card')].map(card => {
  const head = card.querySelector('h3'), box = head.getBoundingClientRect(), style = getComputedStyle(head);
  return {text: head.innerText.replace(/\\s+/g, ' ').trim(), width: box.width, height: box.height,
          visible: style.visibility === 'visible' && style.opacity === '1'};
})
"""

BROKEN = """
[...document.querySelectorAll('nav a span:not(.verb)')].filter(each => {
  let before = null, last = '';
  for (const node of each.childNodes) for (let at = 0; at < (node.data ?? '').length; at++) {
    const range = document.createRange();
    range.setStart(node, at);
    range.setEnd(node, at + 1);
    const {top} = range.getBoundingClientRect();
    if (before !== null && top > before + 4 && node.data[at] !== '/' && last !== '-') return true;
    before = top;
    last = node.data[at];
  }
  return false;
}).map(each => each.innerText)
"""
"""Paths of the navigation that go on in another line elsewhere than at a slash or a hyphen."""
CONTRAST = """
(() => {
  const light = text => {
    const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(channel);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (!/, 0\\)$|transparent/.test(color)) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  let worst = {ratio: 99};
  for (const element of document.querySelectorAll('h1, h2, h3, h4, p, a, code, pre, td, th, span, summary')) {
    if (!element.innerText.trim()) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst.ratio) worst = {ratio, text: element.innerText.slice(0, 40), tag: element.tagName};
  }
  return worst;
})()
"""
"""The least contrast of any text with what is behind it, as WCAG 2.2 computes it (https://www.w3.org/TR/WCAG22/)."""


async def test_every_call_is_seen_and_nothing_is_loaded_from_elsewhere(page: Page, service: Service) -> None:
    await page.size(1280, 900)
    await page.open(f"{service.url}/docs")
    cards = await page.look(SEEN)
    shown = {card["text"] for card in cards if card["visible"] and card["width"] > 100 and card["height"] > 10}
    documented = {f"{call.method.upper()} {call.path}" for call in CALLS if call.in_document}
    assert documented - shown == set()
    assert len(cards) == len(shown)
    linked = await page.look("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")
    assert len(linked) == len(set(linked)) == len(cards)

    # A link leads to its card.
    await page.look("document.querySelector('nav a:last-child').click()")
    assert await page.look("document.querySelector(location.hash) !== null")

    outside = [url for url in page.requests if not url.startswith((service.url, "data:"))]
    assert outside == []
    assert f"{service.url}/docs" in page.requests
    assert page.complaints == []


async def test_a_call_is_found_and_tried_with_a_key(page: Page, service: Service) -> None:
    await page.size(1280, 900)
    await page.open(f"{service.url}/docs")
    shown = "[...document.querySelectorAll('main section.card, nav a')].filter(each => !each.hidden)"
    await page.look(
        "(() => { const field = document.querySelector('input[type=search]');"
        " field.value = 'broadcast channel delete'; field.dispatchEvent(new Event('input')); })()"
    )
    names = await page.look(f"{shown}.map(each => each.id || each.getAttribute('href'))")
    assert {"delete_channel", "#delete_channel"} <= set(names)
    assert len(names) < 10
    heads = "[...document.querySelectorAll('nav h2')].filter(each => !each.hidden).map(each => each.innerText)"
    assert "devices" not in [head.lower() for head in await page.look(heads)]

    card = "document.querySelector('#post_push')"
    for key, status in (("", 401), ("pusher", 202)):
        await page.look(f"document.querySelector('#key').value = {key!r}")
        await page.look(f"{card}.querySelector('details:last-of-type').open = true")
        await until(page, f"!!{card}.querySelector('form textarea')?.value.includes('Order 7 shipped')")
        await page.look(
            f"(({card}.querySelector('form pre').hidden = true), {card}.querySelector('form button').click())"
        )
        await until(page, f"!{card}.querySelector('form pre').hidden")
        assert (await page.look(f"{card}.querySelector('form pre').innerText")).startswith(f"{status} ")
    assert len(service.store.pushes) == 1
    (push,) = service.store.pushes
    card = "document.querySelector('#get_push')"
    await page.look(f"{card}.querySelector('details:last-of-type').open = true")
    await until(page, f"!!{card}.querySelector('form input')")
    await page.look(
        f"(({card}.querySelector('form input').value = {push!r}), {card}.querySelector('form button').click())"
    )
    await until(page, f"{card}.querySelector('form pre').innerText.includes({push!r})")
    # The first try is refused, and nothing else is complained of; the key is kept nowhere.
    assert len(page.complaints) == 1, page.complaints
    assert "401" in page.complaints[0]
    kept = await page.look("document.cookie + JSON.stringify({...localStorage, ...sessionStorage})")
    assert "pusher" not in kept
    assert [url for url in page.requests if not url.startswith((service.url, "data:"))] == []


async def test_it_reads_well_in_the_light_and_in_the_dark_and_on_a_phone() -> None:
    pictures = os.environ.get("PUSHSVC_TEST_PICTURES")
    async with running() as service, browser() as page:
        paper = {}
        for scheme in ("light", "dark"):
            await page.scheme(scheme)
            for name, width, height in (("wide", 1280, 900), ("phone", 390, 844)):
                await page.size(width, height)
                await page.open(f"{service.url}/docs")
                across = await page.look("document.documentElement.scrollWidth")
                assert across <= width, f"{name}: {across} pixels wide"
                assert await page.look(BROKEN) == [], name
                worst = await page.look(CONTRAST)
                assert worst["ratio"] >= 4.5, (scheme, worst)
                if pictures:
                    await page.picture(Path(pictures) / f"docs-{scheme}-{name}.png")
            paper[scheme] = await page.look("getComputedStyle(document.body).backgroundColor")
        assert paper["light"] != paper["dark"]
