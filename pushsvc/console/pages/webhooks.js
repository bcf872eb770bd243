// Webhooks: what was called, what was answered, and what waits.

import { html } from "../vendor/preact-htm.js";
import { act } from "../api.js";
import { number, plural, span } from "../format.js";
import { Act, Asked, Facts, Prose, State, Table, Time, useDocument, useNow } from "../parts.js";

const tested = (answer) => `${answer.ok ? "It works" : "It does not work"}: ${answer.host} ${answer.status ? `answers ${answer.status}` : "gives no answer"}${answer.reason ? ` (${answer.reason})` : ""} in ${span(answer.seconds)}.`;

function Hook({ hook, reload }) {
  const dead = hook.dead_batches ?? [];
  return html`<section class="panel stack">
    <div class="row spread"><div class="row"><h2>${hook.kind === "event" ? "Events of devices" : "Feedback"} to ${hook.host}</h2><${State} of=${hook.state} /></div><div class="row">
      <${Act} title=${`Test ${hook.host}`} text="One signed call with a test event is made now. Your receiver should answer 2xx." run=${() => act("POST", "/v1/admin/webhooks/test", {})} done=${tested} changed=${reload}>Test<//>
      ${hook.state === "off" && html`<${Act} title="Resume the calls" text="Calls continue where they stopped. Batches that were given up are not redelivered by this." run=${() => act("POST", "/v1/admin/webhooks/resume", {})} done=${() => "The calls are resumed."} changed=${reload}>Resume<//>`}
      ${hook.dead > 0 && html`<${Act} title="Redeliver batches that were given up" unit=${["batch was given up", "batches were given up"]} text="Each batch keeps its id, so your receiver can recognise repeats." fields=${[["since", "since (empty: all)", "", "2026-12-01T09:00Z"]]}
        count=${async () => (await act("POST", "/v1/admin/webhooks/redeliver", { dry_run: true }, 0)).batches}
        run=${(count, { since }) => act("POST", "/v1/admin/webhooks/redeliver", since ? { since } : {}, count)} done=${(answer) => `${plural(answer.batches, "batch is", "batches are")} redelivered (${plural(answer.events, "event")}).`} changed=${reload}>Redeliver<//>`}
    </div></div>
    ${hook.trouble && html`<div class="note is-slow"><p><${State} of=${hook.state === "off" ? "off" : "failing"}><${Prose} text=${hook.trouble} /><//></p></div>`}
    <${Facts} of=${[
      ["Lag", hook.waiting_since ? html`<span class=${hook.lag > 60 ? "slow" : ""}>${span(hook.lag)}</span>: the oldest event waits since <${Time} of=${hook.waiting_since} />` : "nothing waits"],
      ["Next call", hook.next_call_in !== null && hook.next_call_in !== undefined ? `in ${span(hook.next_call_in)}${hook.attempts ? `, attempt ${hook.attempts + 1} of its batch` : ""}` : null],
      ["Failing since", hook.failing_since && html`<${Time} of=${hook.failing_since} />, ${plural(hook.failures, "call")}: ${hook.reason}`],
      ["Sent up to", hook.cursor && html`<code>${hook.cursor}</code>`],
      ["Given up", hook.dead ? html`<span class="bad">■ ${plural(hook.dead, "batch", "batches")}</span>${hook.asked ? `, ${number(hook.asked)} to be redelivered` : ""}` : "nothing"],
    ]} />
    <div class="stack tight"><h2>Last calls</h2><${Table} label="last calls" rows=${hook.calls ?? []} empty=${html`<p class="soft">It has not been called yet, because there was no event.</p>`} columns=${[
      { label: "at", tight: true, cell: (row) => html`<${Time} of=${row.at} />` },
      { label: "result", tight: true, cell: (row) => html`<${State} of=${row.result} />` },
      { label: "answer", num: true, cell: (row) => row.status || "none" },
      { label: "reason", cell: (row) => row.reason },
      { label: "events", num: true, cell: (row) => number(row.events) },
      { label: "attempt", num: true, cell: (row) => row.attempt },
      { label: "time", num: true, cell: (row) => span(row.seconds) },
      { label: "batch", cell: (row) => html`<code>${row.id}</code>` },
    ]} /></div>
    ${dead.length > 0 && html`<div class="stack tight"><h2>Given up</h2><${Table} label="given up" rows=${dead} columns=${[
      { label: "at", tight: true, cell: (row) => html`<${Time} of=${row.at} />` },
      { label: "reason", cell: (row) => row.reason },
      { label: "events", num: true, cell: (row) => number(row.events) },
      { label: "attempts", num: true, cell: (row) => row.attempts },
      { label: "from, to", cell: (row) => html`<code>${row.after}</code> <code>${row.last}</code>` },
      { label: "batch", cell: (row) => html`<code>${row.id}</code>` },
    ]} /></div>`}
  </section>`;
}

export default function Webhooks({ session }) {
  useNow(2000);
  const asked = useDocument("/v1/admin/webhooks", {}, { every: 5 });
  return html`<div class="stack"><h1>Webhooks</h1><${Asked} of=${asked}>${({ webhooks }) => (webhooks.length
    ? webhooks.map((hook) => html`<${Hook} key=${hook.kind} hook=${hook} reload=${asked.reload} />`)
    : html`<div class="note"><p>No webhook is configured. A webhook calls your backend when a provider says that a token is dead, so that your backend can forget it too:</p><pre tabindex="0" aria-label="configuration">[apps.${session.app}.webhook]
url = "https://backend.example.com/push-feedback"
secret = "..."   # pushsvc webhooks secret</pre></div>`)}<//></div>`;
}
