// The calls of the API, as the session of this page makes them.

/** The refusal of a call: a problem document (RFC 9457), or why none came. */
export class Problem extends Error {
  constructor(document) {
    super(document.detail || document.title);
    Object.assign(this, { status: 0, errors: [], ...document });
  }
}

const listeners = new Set();

/** Calls `listener` when the session has ended. Returns the function that stops it. */
export function onSignedOut(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function withQuery(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** What stands in a field of a form, without blanks around it.
 * @param {HTMLFormElement} form
 * @param {string} name */
export const written = (form, name) => String(new FormData(form).get(name) ?? "").trim();

/** Makes a call and returns its document, or null where it has none. Throws a Problem.
 * @param {string} method
 * @param {string} path
 * @param {{body?: unknown, count?: number, key?: string, headers?: Record<string, string>, signal?: AbortSignal}} [options] */
export async function call(method, path, { body, count, key, headers = {}, signal } = {}) {
  /** @type {Record<string, string>} */
  const sent = { Accept: "application/json", ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  if (method !== "GET") sent["X-Pushsvc-Act"] = String(count ?? 1);
  if (key) sent.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "The API does not answer", detail: "The API cannot be reached from this browser. Check that `pushsvc serve` (or `up`) runs and that the network is there; this page tries again." });
  }
  if (answer.status === 204) return null;
  const text = await answer.text();
  let document = null;
  try { document = text ? JSON.parse(text) : null; } catch { /* not from the API: a proxy, for example */ }
  if (answer.ok) return document;
  if (answer.status === 401 && !key) listeners.forEach((listener) => listener());
  throw new Problem({
    ...(document ?? { title: `Status ${answer.status}`, detail: `The answer is not from the API: status ${answer.status}. Look at the proxy in front of it.` }),
    status: answer.status,
    request: answer.headers.get("X-Request-Id"),
    retryAfter: answer.headers.get("Retry-After"),
  });
}

export const get = (path, query, signal) => call("GET", withQuery(path, query), { signal });
export const act = (method, path, body, count, headers) => call(method, path, { body, count, headers });
export const at = (...parts) => parts.map((part) => encodeURIComponent(part)).join("/");
