// Send: the push document as a form and as JSON, each the mirror of the other, and what each provider would be sent.

import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { act, call } from "../api.js";
import { number, plural, remembered } from "../format.js";
import { Act, Command, Prose, Refusal, State } from "../parts.js";
import { go, to } from "../router.js";

const KINDS = [["users", "users"], ["devices", "devices"], ["topic", "topic"], ["where", "devices that match"], ["tokens", "tokens"], ["all", "all devices"]];
const START = { to: { users: [] }, notification: { title: "", body: "" } };
const FIELDS = [["title", "title"], ["body", "body"], ["subtitle", "subtitle"], ["image", "image (URL)"], ["link", "link"], ["sound", "sound"]];

/** A request to a provider, or the content alone, which is what the live channel carries. */
const written = ({ method, path, headers, body }) => {
  const head = [`${method} ${path}`.trim(), ...Object.entries(headers ?? {}).map(([name, value]) => `${name}: ${value}`)].filter(Boolean);
  return [...head, ...(head.length ? [""] : []), JSON.stringify(body, null, 2)].join("\n");
};

export function Message({ message }) {
  const { limit } = message;
  const share = limit ? message.bytes / limit : 0;
  return html`<section class="panel stack tight"><div class="row spread"><h2>${message.route}</h2><span>${message.deliveries !== null && message.deliveries !== undefined ? `${plural(message.deliveries, "delivery", "deliveries")}, ` : ""}<span class=${share > 0.9 ? "slow" : ""}>${number(message.bytes)}${limit ? ` of ${number(limit)}` : ""} bytes</span></span></div>
    ${limit && html`<div class="meter ${share > 1 ? "bad" : share > 0.9 ? "slow" : "ok"}" role="img" aria-label=${`${number(message.bytes)} of ${number(limit)} bytes`}><i style=${{ width: `${Math.min(100, share * 100)}%` }}></i></div>`}
    <pre tabindex="0" aria-label=${`request to ${message.route}`}>${written(message)}</pre></section>`;
}

/** The values of the form, of a document; what the form has no field for stays as it is. */
function Form({ push, change }) {
  const kind = KINDS.find(([name]) => push.to && name in push.to)?.[0] ?? "users";
  const value = push.to?.[kind];
  const text = kind === "tokens" ? JSON.stringify(value ?? []) : Array.isArray(value) ? value.join(" ") : value === true ? "" : value ?? "";
  const list = (given) => given.split(/[\s,]+/).filter(Boolean);
  const target = (name, given) => ({ all: true, topic: given, where: given, tokens: given }[name] ?? list(given));
  const set = (name, given) => { const next = { ...push }; if (given === "" || given === undefined || given === false) delete next[name]; else next[name] = given; change(next); };
  const note = (name, given) => { const next = { ...push.notification }; if (given === "") delete next[name]; else next[name] = given; set("notification", Object.keys(next).length ? next : undefined); };
  return html`<div class="stack tight">
    <div class="filter"><label class="field"><span>to</span><select onChange=${(event) => change({ ...push, to: { [event.currentTarget.value]: target(event.currentTarget.value, event.currentTarget.value === "tokens" ? [] : "") } })}>${KINDS.map(([name, label]) => html`<option value=${name} selected=${name === kind}>${label}</option>`)}</select></label>
      ${kind === "all" ? null : kind === "tokens" ? html`<p class="soft">Write <code>to.tokens</code> in the JSON.</p>` : html`<label class="field" style=${{ flex: "1 1 200px" }}><span>${Object.fromEntries(KINDS)[kind]}</span><input value=${text} spellcheck=${false} autocomplete="off" onChange=${(event) => change({ ...push, to: { [kind]: target(kind, event.currentTarget.value.trim()) } })} placeholder=${kind === "where" ? "tags.plan == 'pro'" : kind === "topic" ? "news" : "u1 u2"} /></label>`}</div>
    <div class="filter fill">${FIELDS.map(([name, label]) => html`<label class="field" style=${{ flex: "1 1 40%" }}><span>${label}</span><input value=${push.notification?.[name] ?? ""} autocomplete="off" onInput=${(event) => note(name, event.currentTarget.value)} /></label>`)}</div>
    <div class="filter fill"><label class="field"><span>lane</span><select onChange=${(event) => set("lane", event.currentTarget.value)}>${["", "urgent", "normal", "bulk"].map((lane) => html`<option value=${lane} selected=${lane === (push.lane ?? "")}>${lane || "default"}</option>`)}</select></label>
      <label class="field"><span>time to live, s</span><input inputmode="numeric" value=${push.ttl ?? ""} onChange=${(event) => set("ttl", event.currentTarget.value.trim() === "" ? undefined : Number(event.currentTarget.value))} /></label>
      <label class="field"><span>collapse</span><input value=${push.collapse ?? ""} onChange=${(event) => set("collapse", event.currentTarget.value.trim())} /></label>
      <label class="field instant"><span>send at (UTC)</span><input value=${push.send_at ?? ""} placeholder="2026-12-01T09:00:00Z" onChange=${(event) => set("send_at", event.currentTarget.value.trim())} /></label>
      <label class="check"><input type="checkbox" checked=${!!push.silent} onChange=${(event) => set("silent", event.currentTarget.checked)} />silent</label></div>
  </div>`;
}

const named = (push) => !push.to || ["tokens", "devices", "users"].every((kind) => !push.to[kind]?.length) ? (push.to && ("all" in push.to || push.to.topic || push.to.where)) : true;

const recall = (name, otherwise) => { try { return JSON.parse(remembered.load(name)) ?? otherwise; } catch { return otherwise; } };

export default function Send({ session }) {
  const [push, setPush] = useState(() => recall("pushsvc.draft", START));
  const [lacks, lack] = useState(() => recall("pushsvc.lacks", []));
  const [text, setText] = useState(JSON.stringify(push, null, 2));
  const [wrong, blame] = useState(null);
  const [preview, see] = useState(null);
  const [me, setMe] = useState(remembered.load("pushsvc.me") ?? "");
  const [said, say] = useState(null);
  const clear = () => { remembered.store("pushsvc.lacks", "[]"); lack([]); change(START); };
  const change = (next) => { setPush(next); setText(JSON.stringify(next, null, 2)); blame(null); };
  const write = (next) => { setText(next); try { setPush(JSON.parse(next)); blame(null); } catch (error) { blame(error.message); } };
  useEffect(() => {
    remembered.store("pushsvc.draft", JSON.stringify(push));
    say(null);
    if (!named(push)) { see(null); return undefined; }
    const stop = new AbortController();
    const timer = setTimeout(() => call("POST", "/v1/admin/preview", { body: push, count: 0, signal: stop.signal }).then((found) => see({ found }), (problem) => problem.name !== "AbortError" && see({ problem })), 400);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [JSON.stringify(push)]);
  const may = session.scopes.includes("push");
  const ready = may && !wrong && !!preview?.found;
  const post = (body, count) => act("POST", "/v1/push", body, count, { "Idempotency-Key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` });
  const found = preview?.found;
  const deliveries = found ? found.deliveries ?? found.audience?.devices : null;
  return html`<div class="stack"><h1>Send</h1>
    ${!may && html`<div class="note is-slow"><p><${State} of="warning">This key cannot send:<//> it lacks the scope <code>push</code>. The preview works; to send, sign in with another key.</p></div>`}
    ${lacks.length > 0 && html`<div class="note is-slow"><p><${State} of="warning">This is a copy.<//> These fields could not be recovered: ${lacks.map((name, index) => html`${index ? ", " : ""}<code>${name}</code>`)}. Fill in what you need.${lacks.includes("dry_run") && html` The copy is a dry run; remove <code>dry_run</code> to send it.`}</p></div>`}
    <div class="two"><div class="stack"><${Form} push=${push} change=${change} />
      <label class="field"><span>as JSON</span><textarea rows="14" spellcheck=${false} value=${text} onInput=${(event) => write(event.currentTarget.value)} aria-invalid=${String(!!wrong)}></textarea></label>
      ${wrong && html`<p class="bad" role="alert">■ ${wrong}</p>`}
      <div class="row">
        <${Act} title="Send this push" unit=${["delivery", "deliveries"]} disabled=${!ready} text=${`${push.dry_run ? "It is a dry run: no device gets it." : push.send_at ? `It is sent at ${push.send_at}; until then it can be cancelled.` : "It is sent at once."}${lacks.length ? ` It is a copy that may lack ${lacks.join(", ")}.` : ""}`}
          count=${async () => { const now = await call("POST", "/v1/admin/preview", { body: push, count: 0 }); return now.deliveries ?? now.audience?.devices ?? 0; }}
          run=${(count) => post(push, count)} changed=${(answer) => go(to("pushes", answer.id))}>Send<//>
        <button type="button" disabled=${!ready} onClick=${() => post({ ...push, dry_run: true }, 0).then((answer) => say({ answer }), (problem) => say({ problem }))}>Dry run</button>
        <button type="button" onClick=${clear}>Clear</button></div>
      <form class="filter" onSubmit=${(event) => { event.preventDefault(); remembered.store("pushsvc.me", me); post({ ...push, to: { devices: [me] }, lane: "urgent", send_at: undefined }, 1).then((answer) => go(to("pushes", answer.id)), (problem) => say({ problem })); }}>
        <label class="field"><span>my device</span><input value=${me} onInput=${(event) => setMe(event.currentTarget.value.trim())} autocomplete="off" placeholder="phone-1" /></label><button disabled=${!may || !me || !!wrong}>Send to me</button></form>
      ${said?.problem && html`<${Refusal} problem=${said.problem} />`}
      ${said?.answer && html`<div class="note is-ok" role="status"><p><${State} of="ok">It would be accepted:<//> ${said.answer.deliveries === null ? "its audience is counted when it is sent" : plural(said.answer.deliveries, "delivery", "deliveries")}. Nothing was sent.</p></div>`}
      <${Command} label="as curl" text=${`curl ${location.origin}/v1/push -H "Authorization: Bearer $PUSHSVC_KEY" \\\n  --json '${JSON.stringify(push).replaceAll("'", "'\\''")}'`} /></div>
    <div class="stack" aria-live="polite"><h2>What would be sent</h2>
      ${preview === null && html`<p class="soft">Choose receivers to see exactly what each provider would be sent.</p>`}
      ${preview?.problem && html`<${Refusal} problem=${preview.problem} />`}
      ${found && html`<p>${found.audience && !found.audience.complete ? "At least " : ""}<b class="strong">${deliveries === null ? "An unknown number of" : number(deliveries)}</b> ${deliveries === 1 ? "delivery" : "deliveries"}${found.unreached ? html`; <span class="slow">▲ ${plural(found.unreached, "receiver gets", "receivers get")} nothing: no active device</span>` : ""}.</p>
        ${found.warnings?.length ? html`<div class="note is-slow"><ul>${found.warnings.map((warning) => html`<li><code>${warning.path}</code> <${Prose} text=${warning.message} /></li>`)}</ul></div>` : null}
        ${found.messages.map((message) => html`<${Message} message=${message} />`)}`}
    </div></div></div>`;
}
