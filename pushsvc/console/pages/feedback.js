// Feedback: which tokens the providers call dead, what is pruned for it, and the guard against pruning by mistake.

import { html } from "../vendor/preact-htm.js";
import { act } from "../api.js";
import { number, percent, plural, span } from "../format.js";
import { Act, Asked, Prose, State, Table, Time, useDocument, useNow } from "../parts.js";
import { to } from "../router.js";

const whole = ({ sent, dead, suspect }) => sent + dead + suspect;

export default function Feedback() {
  useNow(5000);
  const asked = useDocument("/v1/admin/feedback", {}, { every: 10 });
  return html`<div class="stack"><h1>Feedback</h1><${Asked} of=${asked}>${({ routes, days, complete, receipts }) => html`
    ${receipts > 0 && html`<p>${plural(receipts, "answer waits", "answers wait")} to be judged.</p>`}
    ${routes.filter((route) => route.frozen).map((route) => html`<div class="note is-slow"><p><${State} of="frozen">${route.route} prunes nothing:<//> <${Prose} text=${route.why} />. Pushes are still sent. ${route.waits_for && html`Pruning waits for this: <${Prose} text=${route.waits_for} />.`}</p>
      <p>Wrong credentials or the wrong environment make good tokens look dead. Check one device: if its app was removed, release the route; otherwise keep it frozen and correct the account.</p>
      <div class="row"><${Act} danger title=${`Prune at ${route.route} despite the guard`} typed=${route.route} text=${`For the time below, devices are pruned although ${percent(route.share.dead)} of the answers report a dead token and ${percent(route.share.suspect)} a suspect one. Pruned devices can be restored until cleanup removes them.`}
        fields=${[["for", "seconds", "3600"]]} run=${(_, values) => act("POST", "/v1/admin/feedback/release", { route: route.route, for: Number(values.for) || 3600 })} done=${() => "Pruning resumes with the next answer."} changed=${asked.reload}>Release<//></div></div>`)}
    <section class="stack tight"><h2>Guard against pruning by mistake</h2><${Table} label="guard" rows=${routes} columns=${[
      { label: "route", cell: (route) => route.route },
      { label: "pruning", tight: true, cell: (route) => (route.prune_anyway_until ? html`<${State} of="warning">released until <${Time} of=${route.prune_anyway_until} /><//>` : route.frozen ? html`<${State} of="frozen" />` : html`<${State} of="active" />`) },
      { label: "answers", num: true, cell: (route) => number(whole(route.answers)) },
      { label: "dead", num: true, cell: (route) => percent(route.share.dead) },
      { label: "at most", num: true, cell: (route) => percent(route.limit.dead) },
      { label: "suspect", num: true, cell: (route) => percent(route.share.suspect) },
      { label: "at most", num: true, cell: (route) => percent(route.limit.suspect) },
      { label: "of the last", num: true, cell: (route) => span(route.window) },
      { label: "", tight: true, cell: (route) => route.prune_anyway_until && html`<${Act} title=${`Guard ${route.route} again`} text="Pruning stops at once if too many answers report dead tokens." run=${() => act("POST", "/v1/admin/feedback/keep", { route: route.route })} done=${() => "It is guarded again."} changed=${asked.reload}>End release<//>` },
    ]} /><p class="soft">Above these shares, and with at least ${number(routes[0]?.least?.dead)} dead or ${number(routes[0]?.least?.suspect)} suspect answers, a route prunes nothing.</p></section>
    <section class="stack tight"><h2>By day and reason</h2><${Table} label="feedback by day" rows=${days} empty=${html`<p class="soft">No dead or suspect token was reported, as far back as events are kept.</p>`} columns=${[
      { label: "day (UTC)", tight: true, cell: (row) => row.day },
      { label: "platform", cell: (row) => row.platform },
      { label: "reason", cell: (row) => row.reason },
      { label: "what was done", cell: (row) => (row.action === "pruned" || row.action === "suppressed" ? html`<${State} of="slow">${row.action}<//>` : row.action) },
      { label: "tokens", num: true, cell: (row) => number(row.count) },
    ]} />${!complete && html`<p class="slow">▲ Not all were counted: these are lower bounds.</p>`}</section>`}<//></div>`;
}
