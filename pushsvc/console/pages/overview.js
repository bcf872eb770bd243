// Overview: the verdict first, then what it rests on.

import { html, useState } from "../vendor/preact-htm.js";
import { Chart } from "../chart.js";
import { measure, number, plural, secondsSince, span } from "../format.js";
import { Age, Asked, Command, Facts, Prose, Refusal, State, Table, Tile, Time, tone, useDocument, useNow } from "../parts.js";
import { to } from "../router.js";
import { history, useStream } from "../stream.js";

const LEADS = {
  held: ["Pushes that wait", to("pushes", null, { state: "sending" })], frozen: ["Release or keep", to("feedback")], webhook: ["Webhooks", to("webhooks")], full: ["Pushes that wait", to("pushes", null, { state: "sending" })],
};

/** A part of a sentence as a whole one. */
const sentence = (text) => (text ? `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}` : "");

function Cause({ cause, verdict }) {
  const lead = LEADS[cause.kind];
  const said = verdict.includes(cause.cause);
  if (said && !lead && verdict.toLowerCase().includes(cause.remedy.toLowerCase())) return null;
  return html`<div class="cause">
    <div><p><${State} of=${cause.severity}>${cause.routes?.length ? cause.routes.join(", ") : cause.what || cause.kind}<//>${cause.since && html` since <${Time} of=${cause.since} /> (<${Age} of=${cause.since} ending="" />)`}${said ? "." : ": "}${said ? "" : html`<b class="strong"><${Prose} text=${cause.cause} /></b>${/[.!?]$/.test(cause.cause) ? "" : "."}`}</p>
      <p>${cause.waiting && !said ? `${plural(cause.waiting, "delivery waits", "deliveries wait")}; none is lost. ` : ""}${said && verdict.includes(cause.remedy.slice(1)) ? "" : html`<${Prose} text=${sentence(cause.remedy)} />`}</p></div>
    <div class="row">${lead && html`<a class="button" href=${lead[1]}>${lead[0]}</a>`}</div>
  </div>`;
}

function Verdict({ stats, check, age }) {
  const { verdict } = stats;
  const kind = age !== null ? "idle" : tone(verdict.state);
  const sign = { ok: "●", slow: "▲", bad: "■" }[kind] ?? "○";
  return html`<section class="verdict is-${kind}" aria-label="verdict">
    <div class="head"><h1 tabindex="-1" aria-live="polite"><span class="sign ${kind}" aria-hidden="true">${sign}</span><span>${age !== null && `${span(age)} ago: `}<${Prose} text=${verdict.text} /></span></h1>
      <button type="button" onClick=${check.run} disabled=${check.busy}>${check.busy ? "Checking…" : "Check now"}</button></div>
    ${verdict.causes.map((cause) => html`<${Cause} cause=${cause} verdict=${verdict.text} />`)}
  </section>`;
}

const checked = (ok, warnings) => {
  if (!ok) return html`<${State} of="error">There are faults.<//>`;
  return warnings ? html`<${State} of="warning">No errors, ${plural(warnings, "warning")}.<//>` : html`<${State} of="ok">Nothing is wrong.<//>`;
};

function Check({ asked, close }) {
  return html`<section class="panel stack tight"><div class="row spread"><h2>Check of the configuration, the store and the credentials</h2><button class="tiny" onClick=${close}>Close</button></div>
    <${Asked} of=${asked}>${({ ok, findings }) => html`
      <p>${checked(ok, findings.filter((row) => row.level === "warning").length)}</p>
      <${Table} label="findings" rows=${findings} columns=${[
        { label: "level", tight: true, cell: (row) => html`<${State} of=${row.level} />` },
        { label: "part", cell: (row) => html`<code>${row.part}</code>` },
        { label: "finding", cell: (row) => html`<${Prose} text=${row.what} />` },
        { label: "remedy", cell: (row) => row.fix && html`<${Prose} text=${row.fix} />` },
        { label: "expires", cell: (row) => row.expires && html`<${Time} of=${new Date(row.expires * 1000).toISOString()} />` },
      ]} />`}<//></section>`;
}

/** Whether nothing holds a route that has nothing to send. */
const idle = (route) => route.state === "sending" && !route.sent_rate && !route.waiting && !route.retrying;

function RatesChart() {
  const asked = useDocument("/v1/admin/rates", { span: 3600, step: 60 }, { every: 30 });
  if (!asked.document) return asked.problem ? html`<${Refusal} problem=${asked.problem} again=${asked.reload} />` : html`<p class="chart soft" aria-busy="true">Loading…</p>`;
  const { from, step, points, series } = asked.document;
  const begin = Date.parse(from) / 1000;
  const times = Array.from({ length: points }, (_, index) => begin + index * step);
  const sum = (...names) => times.map((_, index) => {
    const values = series.filter((each) => names.includes(each.name)).map((each) => each.values[index]).filter((value) => value !== null && value !== undefined);
    return values.length ? values.reduce((a, b) => a + b, 0) / step : null;
  });
  return html`<${Chart} label="In, out and failed, the last hour" unit="/s" times=${times} series=${[
    { label: "accepted", color: "--soft", dash: [4, 4], values: sum("accepted") },
    { label: "sent", color: "--ok", values: sum("sent") },
    { label: "failed or dead", color: "--bad", values: sum("failed", "invalid", "expired") },
  ]} />`;
}

function LatencyChart({ stats }) {
  const routes = stats.routes.filter((route) => history.some((each) => each.routes.find((one) => one.route === route.route)?.p99 != null)).slice(0, 3);
  if (!routes.length || history.length < 3) return html`<div class="stack tight"><span class="strong">Time to answer</span><p class="soft">${routes.length ? "Drawn while this page is open." : "No provider has answered in the last minutes."}</p></div>`;
  const tokens = ["--text", "--soft", "--slow"];
  return html`<${Chart} label="Time to answer (p99), while this page is open" unit="ms" times=${history.map((each) => each.at)} series=${routes.map((route, index) => ({
    label: route.route, color: tokens[index], dash: index ? [4, 4] : undefined, values: history.map((each) => { const p99 = each.routes.find((one) => one.route === route.route)?.p99; return p99 == null ? null : p99 * 1000; }),
  }))} />`;
}

function First({ stats }) {
  const base = location.origin;
  const platform = stats.routes.find((route) => route.platform !== "live")?.platform ?? "apns";
  const token = platform === "apns" ? "8f3c".repeat(16) : "dQw4w9WgXcQ:APA91b...";
  return html`<section class="panel stack"><h2>Nothing has been sent yet. The first device and the first push:</h2>
    <${Command} label="Register a device (the app sends you its token)" text=${`curl -X PUT ${base}/v1/devices/phone-1 \\\n  -H "Authorization: Bearer $PUSHSVC_KEY" --json '{"platform": "${platform}", "token": "${token}", "user": "u1"}'`} />
    <${Command} label="Send a push to its user" text=${`curl ${base}/v1/push -H "Authorization: Bearer $PUSHSVC_KEY" \\\n  --json '{"to": {"users": ["u1"]}, "notification": {"title": "Order 7 shipped"}}'`} />
    <p>Or fill in a <a href=${to("send")}>push</a> here; the page previews what each provider would be sent.</p></section>`;
}

export default function Overview({ session }) {
  useNow();
  const { stats, problem, at: came, connected } = useStream();
  const age = Math.round((Date.now() - came) / 1000);
  const [online, check] = useState(null);
  const asked = useDocument(online && "/v1/admin/check");
  if (problem && !stats) return html`<div class="stack"><h1>The figures cannot be read now</h1><${Refusal} problem=${problem} /></div>`;
  if (!stats) return html`<div class="stack"><h1 class="soft" aria-busy="true">Reading the figures…</h1></div>`;
  const oldest = stats.lanes.map((lane) => lane.oldest_age).filter((age) => age !== null);
  const untouched = !stats.devices && !stats.queue.waiting && !stats.dead_letters && stats.routes.every((route) => !Object.values(route.answers).some(Boolean)) && !stats.rates.accepted;
  const share = stats.queue.limit ? stats.queue.counted / stats.queue.limit : 0;
  const parts = stats.workers.map((each) => `${each.count} ${each.part}`).join(", ");
  return html`<div class="stack">
    ${problem && html`<${Refusal} problem=${problem} />`}
    <${Verdict} stats=${stats} age=${age > 10 || !connected || problem ? age : null} check=${{ run: () => (online ? asked.reload() : check(true)), busy: asked.loading }} />
    ${online && html`<${Check} asked=${asked} close=${() => check(null)} />`}
    <section class="tiles" aria-label="figures">
      <${Tile} label="accepted /s" value=${measure(stats.rates.accepted)} note="deliveries" href=${to("pushes")} />
      <${Tile} label="sent /s" value=${measure(stats.rates.sent)} note="accepted by providers" href=${to("pushes", null, { state: "done" })} />
      <${Tile} label="failed /s" value=${measure(stats.rates.failed)} note=${plural(stats.dead_letters, "dead letter")} href=${to("failed")} state=${stats.rates.failed > 0.01 * (stats.rates.sent || 1) ? "bad" : ""} />
      <${Tile} label="oldest due" value=${oldest.length ? span(Math.max(...oldest)) : "-"} note=${`${number(stats.retrying)} waiting to retry`} href=${to("pushes", null, { state: "sending" })} state=${Math.max(0, ...oldest) > 60 ? "slow" : ""} />
      <${Tile} label="queue" value=${number(stats.queue.counted)} note=${`of ${number(stats.queue.limit)}, scheduled included`} href=${to("pushes", null, { state: "sending" })} state=${share > 0.8 ? "bad" : share > 0.5 ? "slow" : ""} />
      <${Tile} label="workers" value=${number(stats.workers.reduce((sum, each) => sum + each.count, 0))} note=${parts} href="#workers" />
    </section>
    ${untouched && html`<${First} stats=${stats} />`}
    <div class="two"><${RatesChart} /><${LatencyChart} stats=${stats} /></div>
    <section class="stack tight"><h2>Lanes</h2><${Table} label="lanes" rows=${stats.lanes} columns=${[
      { label: "lane", cell: (lane) => html`<a href=${to("pushes", null, { lane: lane.lane })}>${lane.lane}</a>` },
      { label: "waiting", num: true, cell: (lane) => html`<span class="live">${number(lane.waiting)}</span>` },
      { label: "oldest", num: true, cell: (lane) => span(lane.oldest_age) },
      { label: "in /s", num: true, cell: (lane) => measure(lane.in_rate) },
      { label: "out /s", num: true, cell: (lane) => measure(lane.out_rate) },
      { label: "through in", num: true, cell: (lane) => span(lane.through_in) },
    ]} /></section>
    <section class="stack tight"><h2>Routes</h2><${Table} label="routes" rows=${stats.routes} columns=${[
      { label: "route", cell: (route) => html`<a href=${to("failed", null, { platform: route.platform })}>${route.route}</a>` },
      { label: "state", tight: true, cell: (route) => html`<${State} of=${route.state}>${idle(route) ? "ready" : route.state}<//>${route.frozen && html` <a class="slow" href=${to("feedback")} title=${route.frozen}>▲ frozen</a>`}` },
      { label: "since", tight: true, cell: (route) => route.since && html`<${Time} of=${route.since} />` },
      { label: "waiting", num: true, cell: (route) => html`<span class="live">${number(route.waiting)}</span>` },
      { label: "sent /s", num: true, cell: (route) => measure(route.sent_rate) },
      { label: "p50", num: true, cell: (route) => span(route.p50) },
      { label: "p99", num: true, cell: (route) => span(route.p99) },
      { label: "answers, 10 min", cell: (route) => { const found = [...Object.entries(route.answers), ["failed", route.failed ?? 0]].filter(([what, count]) => count || what === "sent"); return found.some(([, count]) => count) ? found.map(([what, count]) => `${number(count)} ${what}`).join(", ") : "none"; } },
      { label: "credential", cell: (route) => route.expires_at && (secondsSince(route.expires_at) > -30 * 86400 ? html`<${State} of="warning">expires <${Time} of=${route.expires_at} /><//>` : html`until <${Time} of=${route.expires_at} />`) },
    ]} /></section>
    <div class="two">
      <section class="stack tight" id="workers"><h2>Processes</h2><${Table} label="processes" rows=${stats.workers.flatMap((each) => (each.processes.length ? each.processes.map((one) => ({ ...one, part: each.part })) : [{ part: each.part }]))} columns=${[
        { label: "part", cell: (row) => row.part },
        { label: "process", cell: (row) => (row.name ? html`<code>${row.name}</code>` : html`<${State} of="held">none runs<//>`) },
        { label: "last sign", num: true, cell: (row) => row.last_sign && html`<${Age} of=${row.last_sign} />` },
      ]} /></section>
      <section class="stack tight"><h2>Also</h2><${Facts} of=${[
        ["Scheduled", html`<a href=${to("pushes", null, { tab: "schedules" })}>${plural(stats.schedules, "push", "pushes")}</a>, ${number(stats.scheduled_next_hour)} in the next hour; ${plural(stats.scheduled, "delivery", "deliveries")}`],
        ["Devices", html`<a href=${to("devices")}>${number(stats.devices)}</a> active, ${plural(stats.suppressed, "suppressed token")}`],
        ["Live channel", stats.live && html`<a href=${to("live")}>${plural(stats.live.connections, "connection")}</a> at ${plural(stats.live.gateways.length, "gateway")}; ${stats.unacknowledged ? html`<a href=${to("pushes", null, { state: "sending" })}>${plural(stats.unacknowledged, "delivery waits", "deliveries wait")}</a> for an acknowledgement` : "none waits for an acknowledgement"}`],
        ["Feedback", html`<a href=${to("feedback")}>${plural(stats.receipts, "receipt")}</a> to judge, ${plural(stats.events, "event")} kept`],
        ["Unreadable entries", stats.quarantined ? html`<span class="bad">■ ${number(stats.quarantined)}</span>` : null],
        ["Configuration", stats.reload.ok ? html`<${State} of="ok">in use<//>${stats.reload.at && html` since <${Time} of=${stats.reload.at} />`}` : html`<${State} of="failed">the change was refused<//> ${stats.reload.refused_since && html`since <${Time} of=${stats.reload.refused_since} />`}; run <code>pushsvc check</code>`],
        ["Needs a restart", stats.reload.restart?.length ? html`<span class="slow">▲ ${stats.reload.restart.map((name) => `[${name}]`).join(", ")}</span>` : null],
        ["Cleanup", stats.cleanup.running ? html`<${State} of="running" /> since <${Time} of=${stats.cleanup.began_at} />` : stats.cleanup.ended_at ? html`ended <${Age} of=${stats.cleanup.ended_at} />: ${Object.entries(stats.cleanup.removed).filter(([, n]) => n).map(([what, n]) => `${number(n)} ${what}`).join(", ") || "nothing to remove"}` : html`<span class="slow">▲ never ran: add <code>pushsvc cleanup</code> to cron</span>`],
      ]} /></section>
    </div>
  </div>`;
}
