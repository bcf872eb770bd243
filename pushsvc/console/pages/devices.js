// Devices: by id, by user, by topic, or by an expression whose number of devices is counted as it is typed.

import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { at, get } from "../api.js";
import { number } from "../format.js";
import { Age, Asked, Command, Filter, Pager, Prose, State, Table, useDocument, useNow } from "../parts.js";
import { filter, go, to } from "../router.js";

export const columns = [
  { label: "device", cell: (device) => html`<a href=${to("devices", device.id)}>${device.id}</a>` },
  { label: "state", tight: true, cell: (device) => (device.state === "pruned" ? html`<${State} of="off">pruned<//>` : html`<${State} of="active" />`) },
  { label: "live", cell: (device) => device.live?.online && html`<${State} of="online" />` },
  { label: "platform", cell: (device) => `${device.platform}${device.environment === "sandbox" ? " sandbox" : ""}` },
  { label: "user", cell: (device) => device.user && html`<a href=${to("devices", null, { user: device.user })}>${device.user}</a>` },
  { label: "tags", cell: (device) => Object.entries(device.tags ?? {}).map(([name, value]) => `${name}=${value}`).join(" ") },
  { label: "locale", cell: (device) => device.locale },
  { label: "version", cell: (device) => device.app_version },
  { label: "last seen", tight: true, cell: (device) => html`<${Age} of=${device.last_seen_at} />` },
];

const quoted = (text) => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;

/** An expression, with the number of devices that it matches now, or the place of its fault. */
function Where({ value }) {
  const [text, type] = useState(value);
  const [counted, count] = useState(null);
  useEffect(() => type(value), [value]);
  useEffect(() => {
    if (!text.trim()) { count(null); return undefined; }
    const stop = new AbortController();
    const timer = setTimeout(() => get("/v1/admin/devices/count", { where: text }, stop.signal).then((found) => count({ found }), (problem) => problem.name !== "AbortError" && count({ problem })), 300);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [text]);
  const search = (event) => { event.preventDefault(); filter({ where: text.trim(), q: undefined, user: undefined, topic: undefined }); };
  const fault = counted?.problem?.errors?.[0];
  return html`<form class="stack tight" onSubmit=${search}><label class="field"><span>Expression, as in <code>to.where</code></span>
      <input class="mono" value=${text} onInput=${(event) => type(event.currentTarget.value)} placeholder="tags.plan == 'pro' and locale in ('de', 'at')" autocomplete="off" spellcheck=${false} aria-invalid=${String(!!counted?.problem)} aria-describedby="counted" /></label>
    <div class="row"><button>Search</button><span id="counted" role="status">${counted?.problem ? html`<span class="bad">■ <${Prose} text=${fault?.message ?? counted.problem.message} /></span>` : counted?.found ? html`<b class="strong">${counted.found.complete ? "" : "at least "}${number(counted.found.devices)}</b> ${counted.found.devices === 1 ? "device matches" : "devices match"}` : html`<span class="soft">The number of matching devices appears here as you type.</span>`}</span></div></form>`;
}

function Found({ text }) {
  const asked = useDocument("/v1/admin/devices", { where: `user == ${quoted(text)}`, limit: 50 });
  const [exact, find] = useState(undefined);
  useEffect(() => { find(undefined); get(`/v1/admin/devices/${at(text)}`).then(find, () => find(null)); }, [text]);
  useEffect(() => { if (exact && asked.document && !asked.document.items.length) go(to("devices", exact.id), { replace: true }); }, [exact, asked.document]);
  return html`<section class="stack tight"><h2>“${text}”</h2>
    ${exact && html`<p>The device <a href=${to("devices", exact.id)}>${exact.id}</a> has this id.</p>`}
    <${Asked} of=${asked}>${({ items }) => html`<${Table} label="devices" rows=${items} columns=${columns} empty=${exact === null ? html`<p>No device and no user has this name. <a href=${to("devices", null, { topic: text })}>Is it a topic?</a></p>` : html`<p class="soft">No user has this name.</p>`} />`}<//></section>`;
}

const Empty = () => html`<div class="note"><p>No registered device matches. Your backend registers a device each time the app starts:</p>
  <${Command} label="Register a device" text=${`curl -X PUT ${location.origin}/v1/devices/phone-1 \\\n  -H "Authorization: Bearer $PUSHSVC_KEY" \\\n  --json '{"platform": "apns", "token": "${"8f3c".repeat(16)}", "user": "u1", "tags": {"plan": "pro"}}'`} /></div>`;

function List({ query }) {
  const asked = useDocument(query.topic ? "/v1/devices" : "/v1/admin/devices", { where: query.user ? `user == ${quoted(query.user)}` : query.where, topic: query.topic, cursor: query.cursor, limit: 50 });
  return html`<${Asked} of=${asked}>${({ items, cursor }) => html`<div><${Table} label="devices" rows=${items} columns=${columns} rowKey=${(device) => device.id} empty=${cursor ? html`<p class="soft">None on this page; there are more.</p>` : html`<${Empty} />`} /><${Pager} cursor=${cursor} /></div>`}<//>`;
}

export default function Devices({ query }) {
  useNow(5000);
  return html`<div class="stack"><h1>Devices</h1>
    <${Filter} fields=${[["q", "id or user"], ["user", "user"], ["topic", "topic"]]} />
    <${Where} value=${query.where ?? ""} />
    ${query.q ? html`<${Found} text=${query.q} />` : html`<${List} query=${query} />`}</div>`;
}
