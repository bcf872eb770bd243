// One device: what is known of it, why it is sent nothing, and what can be done.

import { html } from "../vendor/preact-htm.js";
import { act, at, get } from "../api.js";
import { number, plural } from "../format.js";
import { Act, Age, Asked, Facts, Pager, Prose, State, Table, Time, useDocument, useNow } from "../parts.js";
import { go, to } from "../router.js";

function Acts({ device, reload, session }) {
  const path = `/v1/admin/devices/${at(device.id)}`;
  return html`<div class="row">
    <${Act} title="Send a test push to this device" text="It is shown on the device as “Test push”." disabled=${!session.scopes.includes("push")}
      run=${() => act("POST", "/v1/push", { to: { devices: [device.id] }, notification: { title: "Test push", body: "From the console of pushsvc." }, lane: "urgent", ttl: 300 })} changed=${(push) => go(to("pushes", push.id))}>Test push<//>
    ${device.state === "pruned" && html`<${Act} title="Restore this device" text="Pushes are sent to it again, and its token is no longer suppressed. If the provider reports the token as dead again, the device is pruned again." run=${() => act("POST", `${path}/restore`, {})} done=${() => "It is active again."} changed=${reload}>Restore<//>`}
    ${device.state !== "pruned" && device.suppressed && html`<${Act} title="Lift the suppression of its token" text="The provider reported this token as dead. Lift the suppression if the app has registered the same token again." changed=${reload} done=${() => "Pushes are sent to it again."}
      run=${async () => { const known = await get(`/v1/devices/${at(device.id)}`); await act("DELETE", `/v1/suppressions/${at(device.platform, known.token ?? known.fid)}`); }}>Lift suppression<//>`}
    ${device.live?.online && html`<${Act} title="Cut its connection" text="The device may connect again at once. To keep it away, revoke its tokens." run=${() => act("POST", "/v1/admin/live/cut", { device_id: device.id })} done=${() => "The connection was cut."} changed=${reload}>Cut<//>`}
    ${device.live && html`<${Act} title="Revoke its tokens of the live channel" text="Tokens that were issued before are refused, and its connection is closed. Your backend can issue a new one." run=${() => act("DELETE", `/v1/devices/${at(device.id)}/token`)} done=${() => "Its tokens are refused from now on."} changed=${reload}>Revoke tokens<//>`}
    <${Act} danger title="Remove this device" typed=${device.id} text="The device is removed from its user and its topics, until the app registers it again." run=${() => act("DELETE", `/v1/devices/${at(device.id)}`)} changed=${() => go(to("devices"))}>Remove<//>
    ${device.user && html`<${Act} danger title=${`Erase the user ${device.user}`} typed=${device.user} text="Everything that is stored of this user is erased: devices, queued deliveries, dead letters, feedback events, rows of pushes. This cannot be undone."
      run=${() => act("DELETE", `/v1/users/${at(device.user)}`)} done=${(erased) => `${plural(erased.erased, "device is", "devices are")} erased${erased.done ? "" : "; the erasure continues in the background"}.`}>Erase user<//>`}
  </div>`;
}

function Device({ device, reload, session }) {
  const { live } = device;
  return html`
    <div class="row spread"><div class="row"><h1>Device <code>${device.id}</code></h1>${device.state === "pruned" ? html`<${State} of="off">pruned<//>` : html`<${State} of="active" />`}</div><${Acts} device=${device} reload=${reload} session=${session} /></div>
    ${device.state === "pruned" && html`<div class="note is-slow"><p><${State} of="warning">Nothing is sent to it.<//> ${/^[a-z_]+$/.test(device.pruned_for) ? "pushsvc has pruned it" : html`${device.platform} called its token dead`}${device.pruned_at ? html` at <${Time} of=${device.pruned_at} />` : ""}: <b class="strong">${device.pruned_for}</b>. It is registered again when the app starts. If it was pruned by mistake, restore it.</p></div>`}
    ${device.state !== "pruned" && device.suppressed && html`<div class="note is-slow"><p><${State} of="warning">Nothing is sent to its token:<//> ${device.platform} reported it as dead, or your backend suppressed it. Lift the suppression if the app has reported the same token again.</p></div>`}
    <div class="two"><${Facts} of=${[
      ["Platform", `${device.platform}, ${device.environment}`],
      ["Token", html`<code title="hash of the token">${device.token_hash}</code>${device.token_end ? html` ends with <code>…${device.token_end}</code>` : ""}`],
      ["User", device.user && html`<a href=${to("devices", null, { user: device.user })}>${device.user}</a>`],
      ["Topics", device.topics?.length ? device.topics.map((topic, index) => html`${index ? ", " : ""}<a href=${to("devices", null, { topic })}>${topic}</a>`) : "none"],
      ["Tags", Object.entries(device.tags ?? {}).length ? html`<code>${JSON.stringify(device.tags)}</code>` : "none"],
      ["Strikes", device.strikes ? number(device.strikes) : null],
      [device.state === "pruned" ? "Pruned for" : "Suspect for", device.evidence && html`<b class="strong">${device.evidence.reason || "an answer"}</b> at <${Time} of=${device.evidence.at} />${device.evidence.push ? html`, the answer to <a class="mono" href=${to("pushes", device.evidence.push)}>${device.evidence.push}</a>` : ""}${device.evidence.meaning ? html`. <${Prose} text=${device.evidence.meaning} />` : ""}`],
    ]} /><${Facts} of=${[
      ["Registered", html`<${Time} of=${device.registered_at} />, <${Age} of=${device.registered_at} />`],
      ["Last seen", html`<${Time} of=${device.last_seen_at} />, <${Age} of=${device.last_seen_at} />`],
      ["Locale", device.locale], ["Time zone", device.timezone], ["Version of the app", device.app_version],
      ["Live channel", live && html`${live.online ? html`<${State} of="online" /> since <${Time} of=${live.connected_at} />` : html`<${State} of="offline" />`}; ${number(live.unacked)} not acknowledged, ${number(live.unread)} not read`],
    ]} /></div>
`;
}

/** Found by a look at the last pushes of the app: no list by device is kept. */
function Pushes({ device, query }) {
  const asked = useDocument(`/v1/admin/devices/${at(device.id)}/pushes`, { cursor: query.cursor, limit: 20 });
  return html`<section class="stack tight"><h2>Last pushes</h2>
    <${Asked} of=${asked}>${({ items, cursor, examined, too_large, since }) => html`<div class="stack tight">
      <p class="soft">${examined ? html`Looked at ${query.cursor ? `${number(examined)} earlier` : `the last ${number(examined)}`} pushes of the app, back to <${Time} of=${since} />.` : `The app has no ${query.cursor ? "earlier " : ""}pushes.`}${too_large ? ` Of these, ${number(too_large)} went to more than 1,000 devices: no row of each is kept.` : ""} A push that still waits is not listed.</p>
      <${Table} label="last pushes" rows=${items} empty=${html`<p class="soft">None of them went to this device.</p>`} columns=${[
        { label: "push", cell: ({ push_id, delivery }) => html`<a class="mono" href=${to("pushes", push_id)}>${push_id}</a>${delivery.device_id ? "" : html` <span class="soft" title="The push named this token, not the device; it may be older than the registration.">to its token</span>`}` },
        { label: "outcome", tight: true, cell: ({ delivery }) => html`<${State} of=${delivery.outcome} />` },
        { label: "reason", cell: ({ delivery }) => delivery.reason },
        { label: "channel", cell: ({ delivery }) => delivery.channel },
        { label: "accepted", tight: true, cell: ({ created_at }) => html`<${Time} of=${created_at} />` },
        { label: "ended", tight: true, cell: ({ delivery }) => html`<${Time} of=${delivery.at} />` },
      ]} /><${Pager} cursor=${cursor} /></div>`}<//></section>`;
}

export default function OneDevice({ item, query, session }) {
  useNow();
  const device = useDocument(`/v1/admin/devices/${at(item)}`, {}, { every: 10 });
  return html`<div class="stack"><p><a href=${to("devices")}>Devices</a></p>${!device.document && html`<h1>Device <code>${item}</code></h1>`}<${Asked} of=${device}>${(document) => html`<${Device} device=${document} reload=${device.reload} session=${session} /><${Pushes} device=${document} query=${query} />`}<//></div>`;
}
