// Pushes, newest first, and those that wait for their time.

import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { act, at, get } from "../api.js";
import { number, plural, span } from "../format.js";
import { Act, Asked, Choice, Filter, Pager, State, Table, Time, useDocument, useNow } from "../parts.js";
import { to } from "../router.js";

export const stateOf = (push) => (push.state === "sending" && push.counts.retrying > 0 && push.counts.retrying === push.counts.queued + push.counts.retrying ? "retrying" : push.state);

const count = (name, push) => (push.counts[name] ? html`<a href=${to("pushes", push.id, { outcome: name === "queued" || name === "retrying" ? undefined : name })}>${number(push.counts[name])}</a>` : "0");

const columns = (scheduled, reload) => [
  { label: "push", tight: true, cell: (push) => html`<a class="mono" href=${to("pushes", push.id)}>${push.id}</a>` },
  { label: "state", tight: true, cell: (push) => html`<${State} of=${stateOf(push)} />` },
  scheduled ? { label: "due", cell: (push) => html`<${Time} of=${push.send_at} /> <span class="soft">in ${span((Date.parse(push.send_at) - Date.now()) / 1000)}</span>` } : { label: "accepted", tight: true, cell: (push) => html`<${Time} of=${push.created_at} />` },
  { label: "lane", cell: (push) => push.lane },
  { label: "deliveries", num: true, cell: (push) => number(push.counts.total) },
  ...(scheduled ? [] : [
    { label: "waiting", num: true, cell: (push) => number(push.counts.queued + push.counts.retrying) },
    { label: "sent", num: true, cell: (push) => count("sent", push) },
    { label: "failed", num: true, cell: (push) => (push.counts.failed ? html`<span class="bad">${count("failed", push)}</span>` : "0") },
    { label: "other", num: true, cell: (push) => number(push.counts.invalid + push.counts.expired + push.counts.suppressed + push.counts.cancelled) },
  ]),
  { label: "key", cell: (push) => push.key && html`<a href=${to("pushes", null, { key: push.key })}>${push.key}</a>` },
  { label: "", tight: true, cell: (push) => (["done", "cancelled"].includes(push.state) ? null : html`<${Cancel} push=${push} changed=${reload} />`) },
];

export const Cancel = ({ push, changed, label = "Cancel" }) => html`<${Act} danger title="Cancel what has not been sent" unit=${["delivery has not been sent", "deliveries have not been sent"]}
  text=${"Unsent deliveries end as `cancelled`. This cannot be undone. Deliveries that a provider has accepted are not recalled."}
  count=${async () => { const now = await get(`/v1/push/${at(push.id)}`); return now.counts.queued + now.counts.retrying || now.counts.total; }}
  run=${(count) => act("DELETE", `/v1/push/${at(push.id)}`, undefined, count)} changed=${changed}
  done=${(status) => `${plural(status.counts.cancelled, "delivery is", "deliveries are")} cancelled.`}>${label}<//>`;

export const Empty = () => html`<div class="note"><p>No pushes. They are listed for as long as <code>queue.status_retention</code> says.</p><p><a href=${to("send")}>Send one</a>; that page also shows the curl command.</p></div>`;

/** The number of pushes that came after those that are shown: the list does not move under the hand. */
function useNewer(path, query, shown) {
  const [newer, found] = useState(0);
  const first = shown?.[0]?.id;
  useEffect(() => {
    found(0);
    if (query.cursor || shown === undefined) return undefined;
    const look = async () => {
      if (document.hidden) return;
      try {
        const page = await get(path, query);
        const place = first === undefined ? page.items.length : page.items.findIndex((push) => push.id === first);
        found(place < 0 ? page.items.length : place);
      } catch { /* the list itself says what is wrong */ }
    };
    const timer = setInterval(look, 5000);
    return () => clearInterval(timer);
  }, [path, JSON.stringify(query), first]);
  return newer;
}

export default function Pushes({ query }) {
  useNow(5000);
  const { tab, ...narrowed } = query;
  const scheduled = tab === "schedules";
  const path = scheduled ? "/v1/admin/schedules" : "/v1/admin/pushes";
  const asking = { ...(scheduled ? { cursor: query.cursor } : narrowed), limit: 50 };
  const pushes = useDocument(path, asking);
  const newer = useNewer(path, asking, scheduled ? undefined : pushes.document?.items);
  return html`<div class="stack">
    <div class="row spread"><h1>Pushes</h1><${Choice} name="tab" label="list" options=${[["", "accepted"], ["schedules", "schedules"]]} /></div>
    ${!scheduled && html`<${Choice} name="state" label="state" options=${[["", "all"], ...["scheduled", "expanding", "sending", "done", "cancelled"].map((name) => [name, name])]} />
      <${Filter} fields=${[["lane", "lane", ["urgent", "normal", "bulk"]], ["collapse", "collapse"], ["key", "key"], ["since", "since (UTC)", "datetime"], ["until", "until (UTC)", "datetime"]]} />`}
    ${newer ? html`<button class="newer" onClick=${pushes.reload}>${newer} new</button>` : null}
    <${Asked} of=${pushes}>${({ items, cursor }) => html`<div><${Table} label="pushes" rows=${items} rowKey=${(push) => push.id} columns=${columns(scheduled, pushes.reload)} empty=${scheduled ? html`<div class="note"><p>No scheduled pushes. A push with <code>send_at</code> is listed here until it is due.</p></div>` : html`<${Empty} />`} /><${Pager} cursor=${cursor} /></div>`}<//>
  </div>`;
}
