// The figures of the app, as the server sends them while the page can be seen.

import { useEffect, useState } from "./vendor/preact-htm.js";

/** What is known: the last figures, when they came, and whether more are expected. */
let state = { stats: null, at: 0, connected: false, problem: null };
let source = null;
const listeners = new Set();
/** The figures of this visit, for charts: at most an hour of them. */
export const history = [];
const MOST = 1800;

function change(part) {
  state = { ...state, ...part };
  listeners.forEach((listener) => listener(state));
}

function connect() {
  if (source || document.hidden) return;
  source = new EventSource("/console/stream");
  source.addEventListener("stats", (event) => {
    const stats = JSON.parse(event.data);
    history.push({ at: Date.now() / 1000, routes: stats.routes, rates: stats.rates, waiting: stats.queue?.waiting });
    if (history.length > MOST) history.shift();
    change({ stats, at: Date.now(), connected: true, problem: null });
  });
  source.addEventListener("problem", (event) => change({ connected: true, problem: JSON.parse(event.data) }));
  // The server ends a stream after a minute, and the browser opens another: only a longer silence is one.
  const own = source;
  source.onerror = () => setTimeout(() => {
    if (source !== own || own.readyState === EventSource.OPEN) return;
    disconnect();
    setTimeout(connect, 2000);
  }, 1500);
}

function disconnect() {
  source?.close();
  source = null;
  change({ connected: false });
}

function follow() {
  if (document.hidden) disconnect();
  else connect();
}

/** Begins to listen; a hidden tab stops asking. Returns the function that ends it. */
export function listen() {
  document.addEventListener("visibilitychange", follow);
  connect();
  return () => {
    document.removeEventListener("visibilitychange", follow);
    disconnect();
    state = { stats: null, at: 0, connected: false, problem: null };
    history.length = 0;
  };
}

/** The state of the stream, in a component. */
export function useStream() {
  const [seen, see] = useState(state);
  useEffect(() => {
    listeners.add(see);
    see(state);
    return () => listeners.delete(see);
  }, []);
  return seen;
}
