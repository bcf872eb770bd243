// What the pages share: figures, states, tables, questions, refusals.

import { Component, html, useCallback, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact-htm.js";
import { get } from "./api.js";
import { full, instant, number, secondsSince, span } from "./format.js";
import { filter, go, here, to } from "./router.js";

export { html };

/** Asks for a document, again every `every` seconds while the page can be seen. What was known stays until the new one
 * is there; where the last try was refused, it is stale. */
export function useDocument(path, query, { every = 0 } = {}) {
  const [known, learn] = useState({ document: null, problem: null, at: 0, of: null });
  const asked = path && JSON.stringify([path, query]);
  const load = useCallback(async (signal) => {
    if (!path) return;
    try {
      const document = await get(path, query, signal);
      learn({ document, problem: null, at: Date.now(), of: asked });
    } catch (problem) {
      if (problem.name !== "AbortError") learn((before) => ({ ...(before.of === asked ? before : { document: null, at: 0, of: asked }), problem }));
    }
  }, [asked]);
  useEffect(() => {
    const stop = new AbortController();
    load(stop.signal);
    const timer = every && setInterval(() => document.hidden || load(stop.signal), every * 1000);
    return () => { stop.abort(); clearInterval(timer); };
  }, [load, every]);
  const current = known.of === asked;
  return { document: current ? known.document : null, problem: current ? known.problem : null, at: known.at, loading: !!path && !current, reload: () => load() };
}

/** A clock that ticks, for ages. */
export function useNow(every = 1000) {
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => document.hidden || tick((n) => n + 1), every);
    return () => clearInterval(timer);
  }, [every]);
}

/** An instant; `dated` with its day even if that is today. */
export const Time = ({ of, dated = false }) => (of ? html`<time datetime=${of} title=${full(of)}>${dated ? full(of) : instant(of)}</time>` : html`<span class="soft">-</span>`);
export const Age = ({ of, ending = " ago" }) => (of ? html`<time datetime=${of} title=${full(of)}>${span(Math.max(0, secondsSince(of)))}${ending}</time>` : html`<span class="soft">-</span>`);

const STATES = {
  ok: ["ok", "●"], sending: ["ok", "●"], active: ["ok", "●"], sent: ["ok", "●"], online: ["ok", "●"], delivered: ["ok", "●"], running: ["ok", "●"],
  expanding: ["slow", "▲"], slow: ["slow", "▲"], throttled: ["slow", "▲"], retrying: ["slow", "▲"], warning: ["slow", "▲"], failing: ["slow", "▲"], frozen: ["slow", "▲"], suspect: ["slow", "▲"], requested: ["slow", "▲"],
  held: ["bad", "■"], unserved: ["bad", "■"], failed: ["bad", "■"], invalid: ["bad", "■"], off: ["bad", "■"], error: ["bad", "■"], critical: ["bad", "■"], given_up: ["bad", "■"], halved: ["slow", "▲"],
};
export const tone = (state) => (STATES[state] ?? ["soft", "○"])[0];
/** A state: its colour, and a sign and a word for those who do not see it. */
export const State = ({ of, children }) => {
  const [kind, sign] = STATES[of] ?? ["soft", "○"];
  return html`<span class="state ${kind}"><span aria-hidden="true">${sign}</span>${children ?? of}</span>`;
};

export function Copy({ text, label = "copy" }) {
  const [done, say] = useState(false);
  const copy = async () => {
    try { await navigator.clipboard.writeText(text); } catch { return; }
    say(true);
    setTimeout(() => say(false), 1500);
  };
  return html`<button class="tiny" type="button" onClick=${copy} aria-live="polite">${done ? "copied" : label}</button>`;
}

/** A command with a button that copies it. */
export const Command = ({ text, label }) => html`<div class="stack tight"><div class="row spread"><span class="soft">${label}</span><${Copy} text=${text} /></div><pre class="command" tabindex="0" aria-label=${label}>${text}</pre></div>`;

/** A text of the API, in which code stands between backticks. */
export const Prose = ({ text }) => (text ?? "").split(/`([^`]+)`/).map((part, index) => (index % 2 ? html`<code>${part}</code>` : part));

/** A refusal, as the API gives it. */
export function Refusal({ problem, again }) {
  if (!problem) return null;
  return html`<div class="problem" role="alert">
    <p><b class="bad">■ ${problem.title ?? "The console itself has failed"}${problem.status ? ` (${problem.status})` : ""}.</b>${" "}<${Prose} text=${problem.detail ?? problem.message} /></p>
    ${problem.errors?.length ? html`<ul>${problem.errors.map((fault) => html`<li><code>${fault.path}</code> <${Prose} text=${fault.message} /></li>`)}</ul>` : null}
    <div class="row">
      ${again && html`<button type="button" onClick=${again}>Try again</button>`}
      ${problem.retryAfter && html`<span class="soft">It may work in ${problem.retryAfter} s.</span>`}
      ${problem.type?.startsWith("/docs/") && html`<a href=${problem.type} target="_blank">What to do</a>`}
      ${problem.request && html`<span class="soft">In the log: <code>${problem.request}</code></span>`}
    </div>
  </div>`;
}

/** What is asked for: its refusal, that it is awaited, or what is made of it. Old figures stay, and it is said that they are. */
export function Asked({ of, children }) {
  if (!of.document) return of.problem ? html`<${Refusal} problem=${of.problem} again=${of.reload} />` : html`<p class="soft" aria-busy="true">Loading…</p>`;
  return html`<div class="stack ${of.problem ? "stale" : ""}">
    ${of.problem && html`<${Refusal} problem=${of.problem} again=${of.reload} /><p class="slow">▲ The data below is from ${instant(new Date(of.at).toISOString())}.</p>`}
    ${children(of.document)}
  </div>`;
}

/**
 * A table. `columns`: {label, cell(row), num, tight}. The first link of each row is reached with the arrow keys.
 */
export function Table({ columns, rows, label, empty, rowKey }) {
  if (!rows.length) return empty ?? html`<p class="soft">None.</p>`;
  return html`<div class="scroll"><table class="cards" aria-label=${label} role="table">
    <thead role="rowgroup"><tr role="row">${columns.map((column) => html`<th scope="col" role="columnheader" class=${column.num ? "num" : ""}>${column.label || html`<span class="sr">acts</span>`}</th>`)}</tr></thead>
    <tbody role="rowgroup">${rows.map((row, index) => html`<tr role="row" key=${rowKey ? rowKey(row) : index}>${columns.map((column) => {
      const cell = column.cell(row);
      const none = cell === null || cell === undefined || cell === "";
      return html`<td role="cell" data-label=${column.label} class="${column.num ? "num" : ""} ${column.tight ? "tight" : ""} ${none ? "empty" : ""}">${cell}</td>`;
    })}</tr>`)}</tbody>
  </table></div>`;
}

/** The way to the next page. The way back is that of the browser. */
export const Pager = ({ cursor }) => {
  const { query } = here();
  if (!cursor && !query.cursor) return null;
  return html`<div class="pager">
    ${query.cursor && html`<button type="button" onClick=${() => filter({})}>First page</button>`}
    ${cursor && html`<button type="button" onClick=${() => filter({ cursor })}>Next page</button>`}
  </div>`;
};

/** Tabs that set a parameter of the address. */
export const Choice = ({ name, options, label }) => {
  const chosen = here().query[name] ?? "";
  return html`<div class="tabs" role="group" aria-label=${label}>${options.map(([value, text]) => html`<button type="button" aria-pressed=${String(chosen === value)} onClick=${() => filter({ [name]: value })}>${text}</button>`)}</div>`;
};

/** Fields of a filter, which is set when they are left or Enter is pressed. `fields`: [name, label, type or options]. */
export function Filter({ fields, children }) {
  const { query } = here();
  const set = (event) => {
    event.preventDefault();
    const given = Object.fromEntries([...new FormData(event.currentTarget.closest("form"))].map(([name, value]) => [name, String(value).trim()]));
    for (const [name, , kind] of fields) if (kind === "datetime" && given[name] && !/[zZ]|[+-]\d\d:\d\d$/.test(given[name])) given[name] += given[name].length > 10 ? "Z" : "T00:00:00Z";
    if (JSON.stringify(given) !== JSON.stringify(Object.fromEntries(fields.map(([name]) => [name, query[name] ?? ""])))) filter(given);
  };
  return html`<form class="filter" role="search" onSubmit=${set} onChange=${set} key=${JSON.stringify(query)}>
    ${fields.map(([name, label, kind]) => html`<label class="field ${kind === "datetime" ? "instant" : ""}"><span>${label}</span>${Array.isArray(kind)
      ? html`<select name=${name} value=${query[name] ?? ""}>${[["", "all"], ...kind.map((each) => [each, each])].map(([value, text]) => html`<option value=${value} selected=${value === (query[name] ?? "")}>${text}</option>`)}</select>`
      : html`<input name=${name} value=${query[name] ?? ""} autocomplete="off" spellcheck=${false} placeholder=${kind === "datetime" ? "2026-12-01T09:00Z" : ""} />`}</label>`)}
    ${Object.keys(query).length ? html`<button type="button" onClick=${() => go(to(here().page, here().item))}>Clear</button>` : null}
    ${children}
  </form>`;
}

export const Tile = ({ label, value, note, href, state }) =>
  html`<${href ? "a" : "div"} href=${href}><span class="soft">${label}</span><b class="live ${state ?? ""}">${value}</b><small>${note}${" "}</small></${href ? "a" : "div"}>`;

export const Facts = ({ of }) => html`<dl class="facts">${of.filter(([, value]) => value !== undefined && value !== null && value !== "").map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;

/** Shares of a whole as one bar, with its numbers. `parts`: [name, count, state, href]. */
export const Shares = ({ parts, label }) => {
  const whole = parts.reduce((sum, [, count]) => sum + count, 0);
  const shown = parts.filter(([, count]) => count);
  return html`<div class="stack tight">
    <div class="meter counts" role="img" aria-label="${label}: ${shown.map(([name, count]) => `${number(count)} ${name}`).join(", ") || "none"}">${shown.map(([, count, state]) => html`<i class=${tone(state)} style=${{ width: `${(100 * count) / whole}%` }}></i>`)}</div>
    <div class="legend">${parts.map(([name, count, state, href]) => html`<span class=${count ? "" : "soft"}><i class=${tone(state)}></i>${href && count ? html`<a href=${href}>${number(count)} ${name}</a>` : `${number(count)} ${name}`}</span>`)}<span class="soft">= ${number(whole)}</span></div>
  </div>`;
};

// --- acts ------------------------------------------------------------------------------------------------------------

/** @type {(question: any) => void} */
let show = () => {};

/**
 * Asks before an act. `question`:
 *   title, text       what it does and what follows from it
 *   count             returns how many it concerns (a dry run); the operator types this number
 *   unit              what is counted: [of one, of several]
 *   typed             the text to type instead, for what cannot be undone
 *   fields            [name, label, value, hint] of further values
 *   run(count, values)  does it; what it returns is passed on to `progress`
 *   progress(result)  returns {done, total, state, text, ended}, again and again until it has ended
 *   stop(result)      stops it
 *   done(result)      what is said at the end
 */
export const ask = (question) => show(question);

class Boundary extends /** @type {any} */ (Component) {
  componentDidCatch(error) { this.setState({ error }); }
  render({ children }, { error }) { return error ? html`<${Refusal} problem=${error} />` : children; }
}
export { Boundary };

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

export function Questions() {
  const [question, put] = useState(null);
  const [step, goTo] = useState({});
  const box = useRef(null);
  const open = useRef(0);
  show = (next) => {
    open.current += 1;
    put({ ...next, opener: document.activeElement });
    goTo({ name: next.count ? "counting" : "asking" });
  };
  useLayoutEffect(() => { if (question && !box.current.open) box.current.showModal(); }, [question]);
  useEffect(() => {
    if (question?.count) question.count().then((count) => goTo({ name: "asking", count }), (problem) => goTo({ name: "refused", problem }));
  }, [question]);
  useLayoutEffect(() => { if (step.name === "asking") box.current?.querySelector("input[name=typed]")?.focus(); }, [question, step.name]);
  if (!question) return null;
  const close = () => { open.current += 1; box.current?.close(); put(null); question.opener?.focus?.(); question.closed?.(); };
  const { count } = step;
  const expected = question.typed ?? (question.count && count !== undefined ? String(count) : null);
  const run = async (event) => {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(event.currentTarget));
    const turn = open.current;
    goTo({ ...step, name: "running" });
    try {
      const result = await question.run(count ?? 1, values);
      while (question.progress && turn === open.current) {
        const progress = await question.progress(result);
        if (turn !== open.current) return;
        goTo({ ...step, name: "running", progress, result });
        if (progress.ended) break;
        await wait(700);
      }
      const said = question.done?.(result);
      question.changed?.(result);
      if (said === undefined) close();
      else goTo((now) => ({ ...now, name: "done", said }));
    } catch (problem) { goTo({ name: "refused", problem }); }
  };
  const enough = (value) => expected === null || value.replaceAll(",", "").trim() === expected;
  return html`<dialog ref=${box} onClose=${() => question && close()} aria-labelledby="question">
    <form class="stack" onSubmit=${run}>
      <h2 id="question">${question.title}</h2>
      ${question.text && html`<p><${Prose} text=${question.text} /></p>`}
      ${step.name === "counting" && html`<p class="soft" aria-busy="true">Counting…</p>`}
      ${step.name === "refused" && html`<${Refusal} problem=${step.problem} />`}
      ${count !== undefined && ["asking", "running"].includes(step.name) && html`<p role="status"><b class="strong">${number(count)}</b> ${question.unit[count === 1 ? 0 : 1]}.</p>`}
      ${step.name === "asking" && question.fields?.map(([name, label, value, hint]) => html`<label class="field"><span>${label}</span><input name=${name} value=${value} placeholder=${hint ?? ""} autocomplete="off" /></label>`)}
      ${step.name === "asking" && expected !== null && count !== 0 && html`<label class="field"><span>Type <b>${expected}</b> to confirm</span><input name="typed" autocomplete="off" spellcheck=${false} inputmode=${question.typed ? "text" : "numeric"} value=${step.typed ?? ""} onInput=${(event) => goTo({ ...step, typed: event.currentTarget.value })} autofocus /></label>`}
      ${step.progress && html`<div class="stack tight" role="status">
        <div class="meter ok" aria-hidden="true"><i style=${{ width: `${step.progress.total ? (100 * step.progress.done) / step.progress.total : 0}%` }}></i></div>
        <p>${step.progress.text}</p></div>`}
      ${step.name === "done" && html`<p role="status"><${State} of="ok">Done.<//> ${step.said}</p>`}
      <div class="row">
        ${step.name === "asking" && count !== 0 && html`<button class="primary ${question.danger ? "danger" : ""}" disabled=${!enough(step.typed ?? "")}>${question.verb}</button>`}
        ${step.name === "running" && step.progress && !step.progress.ended && question.stop && html`<button type="button" class="danger" onClick=${() => question.stop(step.result)}>Stop</button>`}
        ${step.name === "running" && !step.progress && html`<span class="soft" aria-busy="true">Working…</span>`}
        <button type="button" onClick=${close}>Close</button>
      </div>
    </form>
  </dialog>`;
}

/** A button that asks before it acts. */
export const Act = ({ children, danger, disabled, ...question }) => html`<button type="button" class=${danger ? "danger" : ""} disabled=${disabled} onClick=${() => ask({ verb: children, danger, ...question })}>${children}</button>`;
