// The page of the API: a search, and a form that makes each call. Without it the page is whole as well.

const make = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
};
const field = (label, input) => make("label", {}, label, input);

// --- search ----------------------------------------------------------------------------------------------------------

/** The elements that a selector finds.
 * @param {string} selector
 * @returns {HTMLElement[]} */
const all = (selector) => [.../** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(selector))];
const links = new Map(all("nav a").map((link) => [link.getAttribute("href"), link]));
const cards = all("main section.card").map((card) => ({ card, text: card.textContent.toLowerCase(), link: links.get(`#${card.id}`) }));
const search = make("input", { type: "search", placeholder: "search  /", autocomplete: "off", ariaLabel: "Search calls and documents" });
const none = make("p", { className: "soft", textContent: "Nothing is found.", hidden: true });

function narrow() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const { card, text, link } of cards) {
    const fits = words.every((word) => text.includes(word));
    card.hidden = link.hidden = !fits;
    found += fits;
  }
  none.hidden = found > 0;
  // A heading goes with the last of what stands below it; in the page a sentence about it follows.
  let head = null, about = null;
  for (const each of all("nav h2, nav a, main > h1, main > h2, main > p, main > section")) {
    if (each.tagName === "H1") head = about = null;
    else if (each.tagName === "H2") { head = each; about = null; head.hidden = true; }
    else if (each.tagName === "P") { about = head && each; if (about) about.hidden = true; }
    else if (head && !each.hidden) { head.hidden = false; if (about) about.hidden = false; }
  }
}

search.addEventListener("input", narrow);
document.querySelector("nav").prepend(search, none);
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || /** @type {Element} */ (event.target).closest("input, textarea")) return;
  event.preventDefault();
  search.focus();
});

// --- making calls ----------------------------------------------------------------------------------------------------

// The key is in this field alone, and is gone with the page.
const key = make("input", { type: "password", autocomplete: "off", placeholder: "pushsvc_...", id: "key" });
const holder = make("form", { autocomplete: "off" }, make("input", { name: "username", value: location.host, hidden: true, autocomplete: "username" }), field("API key, for trying the calls here. It is sent to this server alone and stored nowhere.", key));
holder.addEventListener("submit", (event) => event.preventDefault());
document.querySelector("main h1").nextElementSibling.after(holder);

let loading = null;
const load = () => (loading ??= fetch("/openapi.json", { credentials: "omit" }).then((answer) => answer.json()));
const followed = (item, shared) => (item.$ref ? shared[item.$ref.split("/").pop()] : item);

/** The form of one call. */
function form(path, method, call, shared) {
  const parameters = (call.parameters ?? []).map((each) => followed(each, shared.parameters));
  const inputs = parameters.map((each) => [each, make("input", { name: each.name, required: !!each.required, autocomplete: "off", placeholder: each.schema.default ?? each.schema.enum?.join(" | ") ?? "" })]);
  const body = call.requestBody?.content["application/json"];
  const example = body && JSON.stringify(Object.values(body.examples ?? {})[0]?.value ?? {}, null, 2);
  const text = body && make("textarea", { name: "body", value: example, spellcheck: false });
  const answer = make("pre", { hidden: true, tabIndex: 0, ariaLabel: "answer" });
  answer.setAttribute("role", "status");
  const button = make("button", { textContent: `Send ${method.toUpperCase()}` });
  const whole = make("form", {}, ...inputs.map(([each, input]) => field(`${each.name} (${each.in}${each.required ? ", needed" : ""})`, input)), ...(body ? [field("body", text)] : []), make("p", {}, button), answer);
  whole.addEventListener("submit", async (event) => {
    event.preventDefault();
    const url = new URL(path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(whole.elements[name].value)), location.origin);
    const headers = key.value.trim() ? { Authorization: `Bearer ${key.value.trim()}` } : {};
    for (const [each, input] of inputs) {
      if (each.in === "query" && input.value) url.searchParams.append(each.name, input.value);
      if (each.in === "header" && input.value) headers[each.name] = input.value;
    }
    if (body) headers["Content-Type"] = "application/json";
    button.disabled = true;
    const begun = performance.now();
    try {
      // Without the cookie of the console: what is tried here is what the key may do.
      const got = await fetch(url, { method: method.toUpperCase(), headers, body: body ? text.value : undefined, credentials: "omit", cache: "no-store" });
      const raw = await got.text();
      let shown = raw;
      try { shown = JSON.stringify(JSON.parse(raw), null, 2); } catch { /* no JSON */ }
      answer.textContent = `${got.status} ${got.statusText}, ${Math.round(performance.now() - begun)} ms\n${[...got.headers].map(([name, value]) => `${name}: ${value}`).join("\n")}\n\n${shown}`;
    } catch (error) {
      answer.textContent = `There is no answer: ${error.message}`;
    }
    answer.hidden = button.disabled = false;
  });
  return whole;
}

for (const { card } of cards.filter(({ card }) => card.querySelector("h3 .verb"))) {
  const details = make("details", {}, make("summary", { textContent: "Try it" }));
  details.addEventListener("toggle", async () => {
    if (!details.open || details.children.length > 1) return;
    const { paths, components } = await load();
    for (const [path, methods] of Object.entries(paths)) {
      for (const [method, call] of Object.entries(methods)) if (call.operationId === card.id && details.children.length < 2) details.append(form(path, method, call, components));
    }
  });
  card.append(details);
}
