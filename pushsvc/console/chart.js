// Charts: at most three lines, units on the axis, gaps shown as gaps, and a value between two gaps as a point.

import { html, useEffect, useRef } from "./vendor/preact-htm.js";
import { measure, zone } from "./format.js";

let loading = null;

function load() {
  loading ??= import("./vendor/uplot.js").then((module) => {
    const sheet = document.createElement("link");
    sheet.rel = "stylesheet";
    sheet.href = new URL("./vendor/uplot.css", import.meta.url).href;
    document.head.append(sheet);
    return module.default;
  });
  return loading;
}

function color(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** Shows the last values in the legend, until the pointer asks for others. */
const latest = (plot) => plot.data[0].length && plot.setLegend({ idx: plot.data[0].length - 1 }, false);

/** The places of values without a neighbour, of which a line shows nothing. */
const alone = (values) => values.flatMap((value, place) => (value != null && values[place - 1] == null && values[place + 1] == null ? [place] : []));

/** `times` in Unix seconds; `series`: {label, color (a token), values, dash}. */
export function Chart({ label, unit, times, series, height = 160 }) {
  const box = useRef(null);
  const plot = useRef(null);
  const data = [times, ...series.map((each) => each.values)];
  const shape = JSON.stringify([label, unit, zone(), series.map((each) => each.label)]);
  useEffect(() => {
    let gone = false;
    const watch = new ResizeObserver(() => plot.current?.setSize({ width: box.current.clientWidth, height }));
    const draw = (uPlot) => {
      if (gone) return;
      plot.current?.destroy();
      const line = color("--line"), soft = color("--soft");
      const axis = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
      plot.current = new uPlot({
        width: box.current.clientWidth, height,
        tzDate: zone() === "UTC" ? (ts) => uPlot.tzDate(new Date(ts * 1000), "Etc/UTC") : undefined,
        axes: [{ ...axis, size: 28, values: times.at(-1) - times[0] < 600 ? "{HH}:{mm}:{ss}" : "{HH}:{mm}", space: 72 }, { ...axis, size: 56, values: (_, ticks) => ticks.map((tick) => `${measure(tick)}`) }],
        scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
        cursor: { points: { size: 6 }, drag: { x: false, y: false } },
        series: [{ label: zone(), value: "{HH}:{mm}:{ss}" }, ...series.map((each) => ({ label: each.label, stroke: color(each.color), width: 2, dash: each.dash, spanGaps: false, points: { size: 5, fill: color(each.color), filter: (u, which) => alone(u.data[which]) }, value: (_, value) => (value === null || value === undefined ? "-" : `${measure(value)} ${unit}`) }))],
      hooks: { setCursor: [(u) => { if (u.cursor.idx === null || u.cursor.idx === undefined) latest(u); }] },
      }, plotted.current, box.current);
      latest(plot.current);
      watch.observe(box.current);
    };
    load().then(draw);
    const themed = () => load().then(draw);
    const media = matchMedia("(prefers-color-scheme: dark)");
    media.addEventListener("change", themed);
    addEventListener("pushsvc-theme", themed);
    return () => {
      gone = true;
      watch.disconnect();
      media.removeEventListener("change", themed);
      removeEventListener("pushsvc-theme", themed);
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape]);
  const plotted = useRef(data);
  plotted.current = data;
  useEffect(() => { if (plot.current) { plot.current.setData(data); if (plot.current.cursor.idx == null) latest(plot.current); } });
  const last = series.map((each) => `${each.label} ${measure(each.values.findLast((value) => value !== null))} ${unit}`).join(", ");
  return html`<figure class="stack tight" style=${{ margin: 0 }}>
    <figcaption class="row spread"><span class="strong">${label}</span><span class="soft">${unit}</span></figcaption>
    <div class="chart" ref=${box} role="img" aria-label="${label}. Now: ${last}."></div>
  </figure>`;
}
