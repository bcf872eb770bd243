// One push: what became of it, when, and why.

import { html } from "../vendor/preact-htm.js";
import { at } from "../api.js";
import { number, plural, remembered, secondsSince, span } from "../format.js";
import { Age, Asked, Choice, Command, Copy, Facts, Pager, Prose, Shares, State, Table, Time, tone, useDocument, useNow } from "../parts.js";
import { go, to } from "../router.js";
import { Cancel, stateOf } from "./pushes.js";
import { Replay } from "./failed.js";
import { Message } from "./send.js";

const ENDS = ["sent", "failed", "invalid", "expired", "suppressed", "cancelled"];

const MOMENTS = { first_end: "first answer", first_failure: "first failure", last_end: "last answer", done: "ended" };

/** Points on a line, to scale. */
function Timeline({ push, rows, moments }) {
  const only = moments.find(({ what }) => what === "first_end")?.at;
  const marks = moments.filter(({ what, at: time }) => what !== "last_end" || time !== only).map(({ what, at: time }) => [MOMENTS[what] ?? what, time]);
  if (!["done", "cancelled"].includes(push.state)) marks.push(["now", new Date().toISOString()]);
  const shown = marks.sort((a, b) => Date.parse(a[1]) - Date.parse(b[1]));
  const begin = Date.parse(shown[0][1]), end = Math.max(Date.parse(shown.at(-1)[1]), begin + 1);
  const x = (ms) => 1 + 98 * ((ms - begin) / (end - begin));
  return html`<figure class="stack tight" style=${{ margin: 0 }}>
    <svg class="timeline" role="img" aria-label="The timeline of the push; its instants are in the list that follows" preserveAspectRatio="none">
      <line class="line" x1="1%" x2="99%" y1="44" y2="44" />
      ${rows.slice(0, 400).map((row) => html`<circle cx="${x(Date.parse(row.at))}%" cy="44" r=${row.attempts > 1 ? 5 : 3} class=${tone(row.outcome)} fill="currentColor" fill-opacity=".5"><title>${row.outcome} ${row.reason} at ${row.at}, attempt ${row.attempts}</title></circle>`)}
      ${shown.map(([name, time], index) => { const place = x(Date.parse(time)); const high = index % 2; return html`<g><line class="line" x1="${place}%" x2="${place}%" y1=${high ? 44 : 26} y2=${high ? 62 : 44} style=${{ stroke: "var(--soft)" }} /><text x="${place}%" y=${high ? 78 : 16} text-anchor=${place < 12 ? "start" : place > 88 ? "end" : "middle"}>${name}</text></g>`; })}
    </svg>
    <ol class="legend" style=${{ listStyle: "none", padding: 0, margin: 0 }}>${shown.map(([name, time]) => html`<li><span class="soft">${name}</span> <${Time} of=${time} />${Date.parse(time) > begin ? html` <span class="soft">+${span((Date.parse(time) - begin) / 1000)}</span>` : ""}</li>`)}</ol>
  </figure>`;
}

/** Whether any of it was handed to a provider or a device, so that there is something that was sent. */
const begun = ({ counts }) => counts.sent + counts.failed + counts.invalid + counts.retrying > 0;
const hasEnded = (push) => ["done", "cancelled"].includes(push.state);

function Rows({ push, query }) {
  const rows = useDocument(`/v1/push/${at(push.id)}/deliveries`, { outcome: query.outcome, cursor: query.cursor, limit: 50 });
  return html`<section class="stack tight"><div class="row spread"><h2>Deliveries</h2>
      <${Choice} name="outcome" label="outcome" options=${[["", "all rows"], ...ENDS.map((end) => [end, end])]} /></div>
    ${push.counts.total > 1000 && html`<p class="soft">For a push with more than 1,000 deliveries, rows are kept only for deliveries that were not sent.</p>`}
    <${Asked} of=${rows}>${({ items, cursor }) => html`<div><${Table} label="deliveries" rows=${items} empty=${html`<p class="soft">${query.outcome ? "No delivery has this outcome." : hasEnded(push) ? "No delivery is listed." : "No delivery has ended yet."}</p>`} columns=${[
      { label: "outcome", tight: true, cell: (row) => html`<${State} of=${row.outcome} />` },
      { label: "reason", cell: (row) => row.reason && html`<a href=${to("failed", null, { reason: row.reason })}>${row.reason}</a>` },
      { label: "platform", cell: (row) => row.platform },
      { label: "device or token", cell: (row) => (row.device_id ? html`<a href=${to("devices", row.device_id)}>${row.device_id}</a>` : html`<code title="hash of the token">${row.token_hash}</code>`) },
      { label: "answer", num: true, cell: (row) => row.status || "-" },
      { label: "attempts", num: true, cell: (row) => row.attempts },
      { label: "channel", cell: (row) => row.channel },
      { label: "provider's id", cell: (row) => row.provider_id && html`<code>${row.provider_id}</code>` },
      { label: "at", tight: true, cell: (row) => html`<${Time} of=${row.at} />` },
    ]} /><${Pager} cursor=${cursor} /></div>`}<//></section>`;
}

/** What each provider was or will be sent, as far as it is still kept. */
const Sent = ({ push, kept }) => html`<section class="stack tight"><h2>${begun(push) ? "What was sent" : hasEnded(push) ? "What would have been sent" : "What will be sent"}</h2><${Asked} of=${kept}>${({ messages }) => (messages.length
  ? html`<div class="two">${messages.map((message) => html`<${Message} key=${message.route} message=${message} />`)}</div>`
  : html`<p class="soft">No content. It is kept until the last delivery has ended, and after that only with dead letters.</p>`)}<//></section>`;

const receivers = (to) => to && Object.entries(to).map(([kind, value]) => (Array.isArray(value) ? plural(value.length, kind.slice(0, -1), kind) : kind === "all" ? "all devices" : html`${kind} <code>${value}</code>`))[0];

function Push({ push, query, reload, session }) {
  const ended = hasEnded(push);
  const rows = useDocument(`/v1/push/${at(push.id)}/deliveries`, { limit: 400 }, { every: ended ? 0 : 5 });
  const kept = useDocument(`/v1/admin/pushes/${at(push.id)}`, {}, { every: ended ? 0 : 10 });
  const { copy, copy_lacks, key, lane, to: receiving } = kept.document ?? {};
  const again = () => { remembered.store("pushsvc.draft", JSON.stringify(copy)); remembered.store("pushsvc.lacks", JSON.stringify(copy_lacks)); go(to("send")); };
  const { counts } = push;
  const waits = counts.queued + counts.retrying;
  const parts = [["sent", "sent"], ["queued", "queued"], ["retrying", "retrying"], ["failed", "failed"], ["invalid", "invalid"], ["expired", "slow"], ["suppressed", "idle"], ["cancelled", "idle"]];
  return html`
    <div class="row spread"><div class="row"><h1>Push <code>${push.id}</code></h1><${State} of=${stateOf(push)} /></div>
      <div class="row">
        ${!ended && html`<${Cancel} push=${push} changed=${reload} label="Cancel the rest" />`}
        ${counts.failed > 0 && html`<${Replay} filter=${{ push: push.id }} changed=${reload} label="Replay the failed" />`}
        ${copy && html`<button type="button" title="Opens it on the Send page; nothing is sent until you confirm" onClick=${again}>Send again as a copy</button>`}
      </div></div>
    ${push.held && Object.entries(push.held).map(([route, why]) => html`<div class="note is-slow"><p><${State} of="held">${route} does not send:<//> <${Prose} text=${why} /> ${plural(waits, "delivery waits", "deliveries wait")}; none is lost.</p></div>`)}
    <${Shares} label="deliveries" parts=${parts.filter(([name]) => counts[name] || name === "sent" || name === "failed" || (!ended && name === "queued")).map(([name, state]) => [name, counts[name], state, ENDS.includes(name) ? to("pushes", push.id, { outcome: name }) : null])} />
    <${Timeline} push=${push} rows=${rows.document?.items ?? []} moments=${kept.document?.timeline ?? [{ what: "accepted", at: push.created_at }]} />
    <div class="two"><${Facts} of=${[
      ["Accepted", html`<${Time} of=${push.created_at} />, <${Age} of=${push.created_at} />`],
      ["Due", push.send_at && html`<${Time} of=${push.send_at} dated />${push.state === "scheduled" ? ` in ${span(-secondsSince(push.send_at))}` : ""}`],
      ["Changed", html`<${Time} of=${push.updated_at} />, <${Age} of=${push.updated_at} />`],
      ["Posted with", key && html`the key <a href=${to("pushes", null, { key })}>${key}</a>`],
      ["Lane", lane],
      ["Trace", push.trace_id && html`<code>${push.trace_id}</code> <${Copy} text=${push.trace_id} />`],
      ["To", receiving && html`${receivers(receiving)}${copy_lacks.includes("to") ? html` <span class="soft">that it went to</span>` : ""}`],
    ]} /><${Facts} of=${[
      ["Live channel", push.live && `${number(push.live.acked)} acknowledged, ${number(push.live.fallback)} handed to the provider, ${number(push.live.waiting)} waiting`],
      ["Devices report", push.events && `${Object.entries(push.events).map(([what, n]) => `${number(n)} ${what}`).join(", ")}`],
    ]} /></div>
    <${Command} label="This push with curl" text=${`curl -H "Authorization: Bearer $PUSHSVC_KEY" ${location.origin}/v1/push/${push.id}`} />
    <${Rows} push=${push} query=${query} />
    <${Sent} push=${push} kept=${kept} />`;
}

export default function OnePush({ item, query, session }) {
  useNow();
  const push = useDocument(`/v1/push/${at(item)}`, {}, { every: 2 });
  return html`<div class="stack"><p><a href=${to("pushes")}>Pushes</a></p>${!push.document && html`<h1>Push <code>${item}</code></h1>`}<${Asked} of=${push}>${(document) => html`<${Push} push=${document} query=${query} reload=${push.reload} session=${session} />`}<//></div>`;
}
