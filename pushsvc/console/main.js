import { render, html } from "./vendor/preact-htm.js"; render(html`<p>pushsvc</p>`, document.getElementById("app"));
