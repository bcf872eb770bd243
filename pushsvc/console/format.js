// Numbers, spans and instants, in one way everywhere.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const number = (value) => (value === null || value === undefined ? "-" : whole.format(value));

/** A rate or other measure: two digits where it is small. */
export function measure(value) {
  if (value === null || value === undefined) return "-";
  if (value === 0 || Math.abs(value) >= 10) return whole.format(value);
  return String(Number(value.toPrecision(2)));
}

export const percent = (share) => (share === null || share === undefined ? "-" : `${measure(share * 100)} %`);

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** A span in seconds, in the two units that matter. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  if (seconds < 0) return `-${span(-seconds)}`;
  if (seconds < 1) return seconds === 0 ? "0 s" : `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 10) return `${Number(seconds.toFixed(1))} s`;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s / 60} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  if (s < 14 * 86400) return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

const store = (name, value) => { try { localStorage.setItem(name, value); } catch { /* private mode */ } };
const load = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
export const remembered = { store, load };

let local = load("pushsvc.zone") === "local";
export const zone = () => (local ? "local" : "UTC");
export function setZone(name) {
  local = name === "local";
  store("pushsvc.zone", name);
}

const pad = (value) => String(value).padStart(2, "0");
const parts = (date) =>
  local
    ? [date.getFullYear(), date.getMonth(), date.getDate(), date.getHours(), date.getMinutes(), date.getSeconds()]
    : [date.getUTCFullYear(), date.getUTCMonth(), date.getUTCDate(), date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** An instant: the time alone today, else with its day, and with its year where it is another one. */
export function instant(text, now = Date.now()) {
  if (!text) return "-";
  const [y, m, d, h, min, s] = parts(new Date(text));
  const [ny, nm, nd] = parts(new Date(now));
  const time = `${pad(h)}:${pad(min)}:${pad(s)}`;
  if (y === ny && m === nm && d === nd) return time;
  return y === ny ? `${d} ${MONTHS[m]} ${time}` : `${d} ${MONTHS[m]} ${y} ${time}`;
}

export function full(text) {
  const [y, m, d, h, min, s] = parts(new Date(text));
  return `${y}-${pad(m + 1)}-${pad(d)} ${pad(h)}:${pad(min)}:${pad(s)} ${local ? "local time" : "UTC"}`;
}

export const secondsSince = (text) => (Date.now() - Date.parse(text)) / 1000;
