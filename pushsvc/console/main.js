// The frame of the console: session, navigation, search, keys, and the page that the address names.

import { html, render, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact-htm.js";
import { act, call, get, onSignedOut, written } from "./api.js";
import { remembered, setZone, span, zone } from "./format.js";
import { Boundary, Prose, Questions, Refusal, tone, useNow } from "./parts.js";
import { followLinks, go, to, useAddress } from "./router.js";
import { listen, useStream } from "./stream.js";

const PAGES = {
  overview: "Overview", pushes: "Pushes", devices: "Devices", failed: "Failed", feedback: "Feedback", live: "Live", webhooks: "Webhooks", send: "Send", keys: "Keys",
};
/** The pages that there are for the app: the live channel's where it has one. */
const pagesOf = (session) => Object.keys(PAGES).filter((name) => name !== "live" || session.live);
const addressOf = (page) => (page === "overview" ? "/console" : to(page));
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const THEMES = ["system", "light", "dark"];

function applyTheme(theme) {
  document.documentElement.dataset.theme = theme === "system" ? "" : theme;
  dispatchEvent(new Event("pushsvc-theme"));
}

function Login({ enter }) {
  const [problem, refuse] = useState(null);
  const [working, work] = useState(false);
  const begin = async (event) => {
    event.preventDefault();
    work(true);
    try {
      enter(await call("POST", "/console/session", { key: written(event.currentTarget, "key") }));
    } catch (error) { refuse(error); }
    work(false);
  };
  return html`<main class="login"><form class="stack" onSubmit=${begin}>
    <h1 class="row"><img src=${new URL("./icon.svg", import.meta.url).href} width="24" height="24" alt="" /> pushsvc</h1>
    <input hidden name="username" autocomplete="username" value=${location.host} readonly />
    <label class="field"><span>API key with the scope <code>admin</code></span>
      <input name="key" type="password" autocomplete="current-password" required autofocus aria-invalid=${String(!!problem)} /></label>
    <button class="primary" disabled=${working}>Sign in</button>
    ${problem && html`<${Refusal} problem=${problem} />`}
    <div class="note"><p class="soft">No key yet? Make one where pushsvc runs, with your app's name:</p>
      <pre tabindex="0" aria-label="command">pushsvc keys new --app shop \\
  --name operator \\
  --scope admin --scope push</pre></div>
  </form></main>`;
}

function Freshness() {
  useNow();
  const { at, connected, problem } = useStream();
  const age = at ? (Date.now() - at) / 1000 : null;
  const old = age !== null && age > 10;
  document.documentElement.classList.toggle("stale", old || (!connected && age !== null));
  if (problem) return html`<span class="bad">■ no figures: ${problem.title}</span>`;
  if (!connected) return html`<span class="slow">▲ ${age === null ? "" : `figures of ${span(Math.round(age))} ago, `}connecting${age === null ? "" : " again"}…</span>`;
  return html`<span class=${old ? "slow" : "soft"}>${age === null ? "waiting for figures" : `updated ${span(Math.round(age))} ago`}</span>`;
}

function Verdict({ page }) {
  const { stats } = useStream();
  const verdict = stats?.verdict;
  if (!verdict || verdict.state === "ok" || page === "overview") return null;
  return html`<a class="strip is-${tone(verdict.state)}" href="/console">${verdict.state === "critical" ? "■" : "▲"} <${Prose} text=${verdict.text} /></a>`;
}

function Header({ session, page, leave }) {
  const [open, unfold] = useState(false);
  const [theme, setTheme] = useState(remembered.load("pushsvc.theme") ?? "system");
  const [, redraw] = useState(0);
  const turn = () => { const next = THEMES[(THEMES.indexOf(theme) + 1) % 3]; remembered.store("pushsvc.theme", next); applyTheme(next); setTheme(next); };
  const search = (event) => {
    event.preventDefault();
    const text = written(event.currentTarget, "q");
    if (!text) return;
    go(UUID.test(text) ? to("pushes", text) : to("devices", null, { q: text }));
    event.currentTarget.reset();
    /** @type {HTMLElement | null} */ (document.activeElement)?.blur();
  };
  useEffect(() => unfold(false), [page]);
  return html`<header class="bar"><div>
      <a class="brand" href="/console"><img src=${new URL("./icon.svg", import.meta.url).href} alt="" />pushsvc</a>
      <span class="strong" title="the app that this key belongs to">${session.app}</span>
      <form class="search" role="search" onSubmit=${search}><input id="search" name="q" type="search" placeholder="push id, device, user" aria-label="Search a push id, a device or a user" autocomplete="off" spellcheck=${false} /><kbd aria-hidden="true" class="wide-only">/</kbd></form>
      <div class="row end">
        <button class="plain" title="the time zone of all times" onClick=${() => { setZone(zone() === "UTC" ? "local" : "UTC"); redraw((n) => n + 1); leave.redraw(); }}>${zone()}</button>
        <button class="plain wide-only" title="light, dark or system" onClick=${turn}>theme: ${theme}</button>
        <span class="soft wide-only">key: ${session.key}</span>
        <button class="plain" onClick=${leave.out}>sign out</button>
        <button class="menu" aria-expanded=${String(open)} onClick=${() => unfold(!open)}>${PAGES[page] ?? "Menu"} ▾</button>
      </div>
    </div><div>
      <nav class="tabs ${open ? "open" : ""}" aria-label="pages">${pagesOf(session).map((name) => html`<a href=${addressOf(name)} aria-current=${name === page ? "page" : null}>${PAGES[name]}</a>`)}
        <button class="phone-only" title="light, dark or system" onClick=${turn}>theme: ${theme}</button><span class="phone-only soft">key: ${session.key}</span></nav>
      <span class="end"><${Freshness} /></span>
    </div><${Verdict} page=${page} /></header>`;
}

const KEYS = [["/", "search"], ["?", "this help"], ["↓ ↑ or j k", "next, previous in a list"], ["Enter", "open"], ["Escape", "close"]];
/** The page by the key that follows `g`. */
const PLACES = { o: "overview", p: "pushes", d: "devices", f: "failed", b: "feedback", l: "live", w: "webhooks", s: "send", k: "keys" };

function Help({ close, pages }) {
  const box = useRef(null);
  useLayoutEffect(() => box.current.showModal(), []);
  return html`<dialog ref=${box} onClose=${close} aria-labelledby="help"><div class="stack"><h2 id="help">Keys</h2>
    <dl class="facts">${[...KEYS, ...Object.entries(PLACES).filter(([, page]) => pages.includes(page)).map(([key, page]) => [`g ${key}`, `go to ${PAGES[page]}`])].map(([keys, does]) => html`<dt><kbd>${keys}</kbd></dt><dd>${does}</dd>`)}</dl>
    <p class="soft">Everything in this console is also a call of <a href="/docs" target="_blank">the API</a>.</p>
    <div class="row"><button onClick=${() => box.current.close()} autofocus>Close</button></div></div></dialog>`;
}

function move(step) {
  const rows = [...document.querySelectorAll("main tbody tr")];
  const links = rows.map((row) => /** @type {HTMLElement | null} */ (row.querySelector("a, button"))).filter(Boolean);
  const present = links.findIndex((link) => link.closest("tr") === document.activeElement?.closest("tr"));
  const next = links[present < 0 ? (step > 0 ? 0 : links.length - 1) : present + step];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
  return !!next;
}

function useKeys(help, pages) {
  useEffect(() => {
    let going = 0;
    const press = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, textarea, select, dialog")) return;
      const page = Date.now() - going < 1000 && PLACES[event.key];
      going = event.key === "g" ? Date.now() : 0;
      if (page && pages.includes(page)) go(addressOf(page));
      else if (event.key === "/") { event.preventDefault(); document.getElementById("search").focus(); }
      else if (event.key === "?") help();
      else if (["ArrowDown", "j"].includes(event.key)) move(1) && event.preventDefault();
      else if (["ArrowUp", "k"].includes(event.key)) move(-1) && event.preventDefault();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
}

function Page({ session, address }) {
  const { page } = address;
  const [loaded, load] = useState({});
  const [failed, fail] = useState(null);
  const file = page === "pushes" && address.item ? "push" : page === "devices" && address.item ? "device" : page;
  useEffect(() => {
    document.title = `${PAGES[page] ?? "Not found"} · ${session.app} · pushsvc`;
    if (!PAGES[page] || loaded[file]) return;
    import(`./pages/${file}.js`).then((module) => load((known) => ({ ...known, [file]: module.default })), fail);
  }, [file]);
  const View = loaded[file];
  if (!PAGES[page]) return html`<div class="stack"><h1>There is no page “${page}”</h1><p><a href="/console">Back to the overview</a></p></div>`;
  if (failed) return html`<${Refusal} problem=${{ title: "This page could not be loaded", detail: "The server may be of another version now: load the page again." }} again=${() => location.reload()} />`;
  if (!View) return html`<p class="soft" aria-busy="true">Loading…</p>`;
  return html`<${Boundary} key=${`${file} ${address.item ?? ""}`}><${View} session=${session} item=${address.item} query=${address.query} /><//>`;
}

function Console({ session, leave }) {
  const address = useAddress();
  const [help, showHelp] = useState(false);
  const [, redraw] = useState(0);
  const pages = pagesOf(session);
  useKeys(() => showHelp(true), pages);
  useEffect(listen, []);
  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>Skip to content</a>
    <${Header} session=${session} page=${address.page} leave=${{ out: leave, redraw: () => redraw((n) => n + 1) }} />
    <main id="main" class="page" tabindex="-1"><${Page} session=${session} address=${address} />
      <p class="foot wide-only">pushsvc ${session.version} · <a href="/docs">API</a> · <button class="plain tiny" onClick=${() => showHelp(true)}>keys: <kbd>?</kbd></button></p></main>
    <${Questions} />${help && html`<${Help} close=${() => showHelp(false)} pages=${pages} />`}`;
}

function App() {
  const [session, begin] = useState(undefined);
  const [problem, refuse] = useState(null);
  const look = () => get("/console/session").then((found) => { refuse(null); begin(found); }, (error) => {
    if (error.status === 401 || error.status === 403) begin(null);
    else refuse(error);
  });
  useEffect(() => { look(); return onSignedOut(() => begin(null)); }, []);
  if (problem) return html`<main class="page"><${Refusal} problem=${problem} again=${look} /></main>`;
  if (session === undefined) return null;
  if (session === null) return html`<${Login} enter=${begin} />`;
  const leave = () => act("DELETE", "/console/session").catch(() => {}).then(() => begin(null));
  return html`<${Console} session=${session} leave=${leave} />`;
}

applyTheme(remembered.load("pushsvc.theme") ?? "system");
followLinks();
render(html`<${App} />`, document.getElementById("app"));
