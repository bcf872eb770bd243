// Dead letters by reason, then one by one, and how to send them again.

import { html, useState } from "../vendor/preact-htm.js";
import { Chart } from "../chart.js";
import { act, at, get } from "../api.js";
import { number } from "../format.js";
import { Act, Age, Asked, Filter, Pager, Prose, State, Table, Time, useDocument, useNow } from "../parts.js";
import { to } from "../router.js";

const body = (filter) => Object.fromEntries(["push", "platform", "reason", "since", "until"].filter((name) => filter[name]).map((name) => [name, filter[name]]));

export const Replay = ({ filter, changed, label = "Replay" }) => html`<${Act} title="Send dead letters again" unit=${["dead letter matches", "dead letters match"]}
  text="Each is queued again with a fresh set of attempts. Fix the cause of the failure first. Dead letters of cancelled pushes are not replayed."
  fields=${[["rate", "deliveries a second", "100", "empty: as fast as possible"]]}
  count=${async () => (await act("POST", "/v1/failed/replay", { ...body(filter), dry_run: true }, 0)).matched}
  run=${(count, { rate }) => act("POST", "/v1/failed/replay", { ...body(filter), limit: count, ...(Number(rate) > 0 ? { rate: Number(rate) } : {}) }, count)}
  progress=${async ({ job }) => { const now = await get(`/v1/failed/replay/${at(job)}`); return { done: now.moved + now.skipped, total: now.matched, ended: !["queued", "running"].includes(now.state), text: `${now.state}: ${number(now.moved)} of ${number(now.matched)} sent again${now.skipped ? `, ${number(now.skipped)} skipped` : ""}${now.error ? ` (${now.error})` : ""}` }; }}
  stop=${({ job }) => act("DELETE", `/v1/failed/replay/${at(job)}`)}
  done=${() => "Dead letters that were not replayed stay in this list."} changed=${changed}>${label}<//>`;

/** Saves all that match as a file of JSON lines. */
function Export({ filter }) {
  const [state, say] = useState("Export");
  const save = async () => {
    const lines = [];
    let cursor = null;
    try {
      do {
        const page = await get("/v1/failed", { ...body(filter), cursor, limit: 1000 });
        lines.push(...page.items.map((item) => JSON.stringify(item)));
        cursor = page.cursor;
        say(`${number(lines.length)} read`);
      } while (cursor && lines.length < 200_000);
    } catch (problem) { say(problem.title); return; }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(lines.map((line) => `${line}\n`), { type: "application/x-ndjson" }));
    link.download = "failed.ndjson";
    link.click();
    URL.revokeObjectURL(link.href);
    say("Export");
  };
  return html`<button type="button" onClick=${save}>${state}</button>`;
}

function Trend() {
  const asked = useDocument("/v1/admin/rates", { span: 86400, step: 900 });
  if (!asked.document) return null;
  const { from, step, points, series } = asked.document;
  const failed = series.filter((each) => each.name === "failed");
  const times = Array.from({ length: points }, (_, index) => Date.parse(from) / 1000 + index * step);
  const values = times.map((_, index) => { const known = failed.map((each) => each.values[index]).filter((value) => value != null); return known.length ? known.reduce((a, b) => a + b, 0) : null; });
  if (!values.some(Boolean)) return null;
  return html`<${Chart} label="Failed, the last 24 hours" unit="in 15 min" height=${112} times=${times} series=${[{ label: "failed", color: "--bad", values }]} />`;
}

const letters = [
  { label: "failed at", tight: true, cell: (row) => html`<${Time} of=${row.at} />` },
  { label: "push", tight: true, cell: (row) => html`<a class="mono" href=${to("pushes", row.push_id)}>${row.push_id}</a>` },
  { label: "platform", cell: (row) => row.platform },
  { label: "reason", cell: (row) => row.reason },
  { label: "answer", num: true, cell: (row) => row.status || "none" },
  { label: "attempts", num: true, cell: (row) => row.attempts },
  { label: "device or token", cell: (row) => (row.device_id ? html`<a href=${to("devices", row.device_id)}>${row.device_id}</a>` : html`<code title="hash of the token">${row.token_hash}</code>`) },
];

export const Letters = ({ rows, empty }) => html`<${Table} label="dead letters" rows=${rows} columns=${letters} rowKey=${(row) => row.id} empty=${empty} />`;

export default function Failed({ query }) {
  useNow(5000);
  const { cursor, ...filter } = query;
  const groups = useDocument("/v1/admin/failed", { since: query.since, until: query.until, platform: query.platform });
  const page = useDocument("/v1/failed", { ...body(query), cursor, limit: 50 });
  const reload = () => { groups.reload(); page.reload(); };
  const narrowed = Object.keys(filter).length > 0;
  return html`<div class="stack">
    <div class="row spread"><h1>Failed deliveries</h1><div class="row"><${Export} filter=${filter} /><${Replay} filter=${filter} changed=${reload} label=${narrowed ? "Replay what matches" : "Replay all"} /></div></div>
    <${Filter} fields=${[["platform", "platform"], ["reason", "reason"], ["push", "push"], ["since", "since (UTC)", "datetime"], ["until", "until (UTC)", "datetime"]]} />
    <section class="stack tight"><h2>Why</h2><${Asked} of=${groups}>${(document) => html`<div><${Table} label="reasons" rows=${document.groups} rowKey=${(row) => row.platform + row.reason} empty=${html`<div class="note is-ok"><p><${State} of="ok">Nothing has failed permanently.<//> A delivery comes here when its provider refuses it, or its attempts are used up.</p></div>`} columns=${[
        { label: "reason", tight: true, cell: (row) => html`<a class="strong" href=${to("failed", null, { ...filter, platform: row.platform, reason: row.reason })}>${row.reason}</a>` },
        { label: "platform", cell: (row) => row.platform },
        { label: "deliveries", num: true, cell: (row) => number(row.count) },
        { label: "answer", num: true, cell: (row) => row.status || "none" },
        { label: "retryable", cell: (row) => html`<span title="whether a replay may succeed though nothing is corrected">${row.retryable ? html`<${State} of="ok">yes<//>` : "no"}</span>` },
        { label: "what it means, and what to do", cell: (row) => html`<span><${Prose} text=${row.meaning} /> <b class="strong"><${Prose} text=${row.remedy} /></b></span>` },
        { label: "last", tight: true, cell: (row) => html`<${Age} of=${row.last_at} />` },
        { label: "", tight: true, cell: (row) => html`<${Replay} filter=${{ ...filter, platform: row.platform, reason: row.reason }} changed=${reload} />` },
      ]} />${!document.complete && html`<p class="slow">▲ Not all were counted: these are lower bounds.</p>`}</div>`}<//></section>
    <${Trend} />
    <section class="stack tight"><h2>Which</h2><${Asked} of=${page}>${(document) => html`<div><${Letters} rows=${document.items} empty=${html`<p class="soft">No dead letter matches.</p>`} /><${Pager} cursor=${document.cursor} /></div>`}<//></section>
  </div>`;
}
