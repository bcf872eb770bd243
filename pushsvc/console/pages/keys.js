// API keys: who may do what.

import { html, useState } from "../vendor/preact-htm.js";
import { act, at, written } from "../api.js";
import { secondsSince } from "../format.js";
import { Act, Age, Asked, Copy, Refusal, State, Table, Time, useDocument, useNow } from "../parts.js";
import { to } from "../router.js";

const SCOPES = [["push", "send, cancel, replay"], ["devices", "register, read and erase devices"], ["feedback", "read dead tokens"], ["admin", "everything in this console except sending"]];

function Make({ made }) {
  const [problem, refuse] = useState(null);
  const [key, show] = useState(null);
  const make = async (event) => {
    event.preventDefault();
    const form = event.currentTarget, intake = written(form, "intake");
    try {
      show(await act("POST", "/v1/admin/keys", { name: written(form, "name"), scopes: new FormData(form).getAll("scope"), ...(intake ? { intake } : {}) }));
      refuse(null);
      form.reset();
      made();
    } catch (error) { refuse(error); show(null); }
  };
  return html`<section class="panel stack"><h2>New key</h2><form class="stack tight" onSubmit=${make}>
      <div class="filter"><label class="field"><span>name</span><input name="name" required maxlength="64" autocomplete="off" placeholder="backend" /></label>
        <label class="field"><span>pushes at most</span><input name="intake" autocomplete="off" placeholder="600/min, or empty" /></label></div>
      <fieldset class="row" style=${{ border: 0, padding: 0, margin: 0 }}><legend class="sr">scopes</legend>${SCOPES.map(([scope, does]) => html`<label class="check"><input type="checkbox" name="scope" value=${scope} defaultChecked=${scope === "push"} /><span>${scope} <span class="soft">${does}</span></span></label>`)}</fieldset>
      <div class="row"><button class="primary">Create key</button></div></form>
    ${problem && html`<${Refusal} problem=${problem} />`}
    ${key && html`<div class="note is-ok" role="status"><p><${State} of="ok">The key ${key.name} was created.<//> Copy it now: it is not shown again.</p><div class="row"><code>${key.key}</code><${Copy} text=${key.key} /></div></div>`}</section>`;
}

/** When a key was last used. That is noted once an hour at most, so of the last hour no more is known. */
const Used = ({ at: time }) => (secondsSince(time) < 3600 ? html`<time datetime=${time} title="Use is recorded at most once an hour">within the last hour</time>` : html`<${Age} of=${time} />`);

export default function Keys({ session }) {
  useNow(5000);
  const asked = useDocument("/v1/admin/keys", {}, { every: 30 });
  return html`<div class="stack"><h1>Keys of ${session.app}</h1><${Make} made=${asked.reload} /><${Asked} of=${asked}>${({ keys }) => html`<${Table} label="keys" rows=${keys} rowKey=${(key) => key.name} columns=${[
    { label: "name", cell: (key) => html`<a href=${to("pushes", null, { key: key.name })} title="its pushes">${key.name}</a>${key.name === session.key ? html` <span class="soft">(this session)</span>` : ""}` },
    { label: "scopes", cell: (key) => key.scopes.join(", ") },
    { label: "pushes at most", cell: (key) => key.intake },
    { label: "created", tight: true, cell: (key) => html`<${Time} of=${key.created_at} />` },
    { label: "last used", tight: true, cell: (key) => (key.last_used_at ? html`<${Used} at=${key.last_used_at} />` : html`<span class="soft" title="Use is recorded at most once an hour">never</span>`) },
    { label: "kept in", cell: (key) => key.kept_in },
    { label: "", tight: true, cell: (key) => (key.kept_in === "configuration" ? html`<span class="soft" title="remove it from the configuration file and reload">in the file</span>` : key.name === session.key ? null : html`<${Act} danger title=${`Revoke the key ${key.name}`} typed=${key.name} text="Calls with this key are refused within seconds, and its sessions end. A revoked key cannot be restored." run=${() => act("DELETE", `/v1/admin/keys/${at(key.name)}`)} done=${() => "The key is revoked."} changed=${asked.reload}>Revoke<//>`) },
  ]} />`}<//></div>`;
}
