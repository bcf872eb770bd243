// The live channel: who is connected where.

import { html } from "../vendor/preact-htm.js";
import { act, written } from "../api.js";
import { number, plural } from "../format.js";
import { Act, Age, Asked, State, Table, Tile, useDocument, useNow } from "../parts.js";
import { go, to } from "../router.js";

export default function Live() {
  useNow(2000);
  const asked = useDocument("/v1/admin/live", {}, { every: 5 });
  const search = (event) => { event.preventDefault(); const id = written(event.currentTarget, "id"); if (id) go(to("devices", id)); };
  return html`<div class="stack"><h1>Live channel</h1><${Asked} of=${asked}>${(live) => html`
    <section class="tiles" aria-label="figures"><${Tile} label="connections" value=${number(live.connections)} note=${`at ${plural(live.gateways.length, "gateway")}`} /></section>
    <section class="stack tight"><h2>Gateways</h2><${Table} label="gateways" rows=${live.gateways} rowKey=${(row) => row.gateway} empty=${html`<div class="note is-slow"><p><${State} of="unserved">No gateway runs:<//> devices cannot connect, and pushes go through the provider. Start <code>pushsvc live</code> (it is part of <code>pushsvc up</code>).</p></div>`} columns=${[
      { label: "gateway", cell: (row) => html`<code>${row.gateway}</code>` },
      { label: "connections", num: true, cell: (row) => number(row.connections) },
      { label: "last sign of life", tight: true, cell: (row) => html`<${Age} of=${row.last_sign} />` },
      { label: "", tight: true, cell: (row) => html`<${Act} title=${`Drain ${row.gateway}`} unit=${["connection is moved", "connections are moved"]} text="The app's devices leave this gateway and connect again, at another one where there is one. Do this before you stop the gateway." count=${async () => row.connections} run=${(count) => act("POST", "/v1/admin/live/drain", { gateway: row.gateway }, count)} done=${(answer) => `${plural(answer?.connections ?? 0, "device leaves", "devices leave")} this gateway.`} changed=${asked.reload}>Drain<//>` },
    ]} /></section>`}<//>
    <section class="panel stack tight"><h2>A device's session</h2><form class="filter" onSubmit=${search}><label class="field"><span>device</span><input name="id" autocomplete="off" spellcheck=${false} /></label><button>Show</button></form><p class="soft">A device's page shows how long it has been connected and how much it has not acknowledged. There you can also cut the connection.</p></section></div>`;
}
