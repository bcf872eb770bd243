// The address is the whole state of a page: its name, its item, its filter.

import { useEffect, useState } from "./vendor/preact-htm.js";
import { withQuery } from "./api.js";

const listeners = new Set();

export function here() {
  const [, , page = "overview", item] = location.pathname.split("/");
  return { page: page || "overview", item: item === undefined ? null : decodeURIComponent(item), query: Object.fromEntries(new URLSearchParams(location.search)) };
}

export function go(address, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", address);
  listeners.forEach((listener) => listener());
  if (!replace) scrollTo(0, 0);
}

/** The address of a page with a filter. */
export const to = (page, item, query) =>
  withQuery(`/console/${page}${item === null || item === undefined ? "" : `/${encodeURIComponent(item)}`}`, query);

/** Changes the filter of the present page; a cursor belongs to the filter before. */
export function filter(change, options) {
  const { page, item, query } = here();
  go(to(page, item, { ...query, cursor: undefined, ...change }), options);
}

export function useAddress() {
  const [address, change] = useState(here);
  useEffect(() => {
    const listener = () => change(here());
    listeners.add(listener);
    addEventListener("popstate", listener);
    return () => { listeners.delete(listener); removeEventListener("popstate", listener); };
  }, []);
  return address;
}

/** Follows links within the console without loading the page again. */
export function followLinks() {
  document.addEventListener("click", (event) => {
    /** @type {HTMLAnchorElement | null | undefined} */
    const link = /** @type {Element} */ (event.target).closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || link.target || link.download) return;
    const url = new URL(link.href);
    if (url.origin !== location.origin || !/^\/console(\/|$)/.test(url.pathname)) return;
    if (url.pathname.startsWith("/console/static/")) return;
    event.preventDefault();
    go(url.pathname + url.search);
  });
}
