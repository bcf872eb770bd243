// The live channel: who is connected where.

import { html } from "../vendor/preact-htm.js";
import { act } from "../api.js";
import { number, plural } from "../format.js";
import { Act, Age, Asked, Filter, Shares, State, Table, Tile, useDocument, useNow } from "../parts.js";
import { go, to } from "../router.js";

const words = (name) => name.replaceAll("_", " ");

export default function Live() {
  useNow(2000);
  const asked = useDocument("/v1/admin/live", {}, { every: 5 });
  const search = (event) => { event.preventDefault(); const id = new FormData(event.currentTarget).get("id").trim(); if (id) go(to("devices", id)); };
  return html`<div class="stack"><h1>Live channel</h1><${Asked} of=${asked}>${(live) => html`
    <section class="tiles" aria-label="figures"><${Tile} label="connections" value=${number(live.connections)} note=${`at ${plural(live.gateways.length, "gateway")}`} />
      ${Object.entries(live.events ?? {}).slice(0, 5).map(([name, count]) => html`<${Tile} label=${words(name)} value=${number(count)} note="pushes, as devices report" />`)}</section>
    <section class="stack tight"><h2>Gateways</h2><${Table} label="gateways" rows=${live.gateways} rowKey=${(row) => row.gateway} empty=${html`<div class="note is-slow"><p><${State} of="unserved">No gateway runs:<//> devices cannot connect, and pushes go by the provider. Start <code>pushsvc live</code> (it is part of <code>pushsvc up</code>).</p></div>`} columns=${[
      { label: "gateway", cell: (row) => html`<code>${row.gateway}</code>` },
      { label: "connections", num: true, cell: (row) => number(row.connections) },
      live.gateways.some((row) => row.transports) && { label: "transports", cell: (row) => row.transports && Object.entries(row.transports).map(([name, count]) => `${number(count)} ${name}`).join(", ") },
      live.gateways.some((row) => row.version) && { label: "version", cell: (row) => row.version },
      { label: "last sign", num: true, cell: (row) => html`<${Age} of=${row.last_sign} />` },
      { label: "", tight: true, cell: (row) => html`<${Act} title=${`Drain ${row.gateway}`} unit="connections are moved" text="The app's devices there are told to connect elsewhere. Do this before you stop the gateway." count=${async () => row.connections} run=${(count) => act("POST", "/v1/admin/live/drain", { gateway: row.gateway }, count)} done=${(answer) => `${plural(answer?.connections ?? 0, "device is", "devices are")} told to connect elsewhere.`} changed=${asked.reload}>Drain<//>` },
    ].filter(Boolean)} /></section>`}<//>
    <section class="panel stack tight"><h2>A device's session</h2><form class="filter" onSubmit=${search}><label class="field"><span>device</span><input name="id" autocomplete="off" spellcheck=${false} /></label><button>Show</button></form><p class="soft">Its page shows its connection, its stream and what it has not acknowledged, and cuts it.</p></section></div>`;
}
