// The charts of one VM, drawn by uPlot, which index.html loads.

import { element } from "./dom.js";
import { bytes, NOT_KNOWN, number, percent } from "./format.js";

const { uPlot } = globalThis;
const HEIGHT = 140;
const SPAN_S = 1_800;
const GAP_S = 90; // a line does not lead over a longer time without values

const POWERS_OF_2 = Array.from({ length: 60 }, (_, power) => 2 ** power);

const CHARTS = [
  { title: "Available share", text: percent, range: [0, 1], series: [["available", "available_share", "--bar"]] },
  { title: "Pressure score", text: (value) => value.toFixed(2), range: [0, 1], series: [["score", "score", "--oom"]] },
  { title: "Swap per second", text: bytes, least: 65_536, incrs: POWERS_OF_2, series: [["swap", "swap_bytes_per_s", "--bar"]] },
  { title: "Major faults per second", text: number, series: [["faults", "major_faults_per_s", "--bar"]] },
  { title: "Balloon and resident memory", text: bytes, least: 1 << 20, incrs: POWERS_OF_2, series: [["actual", "actual_bytes", "--bar"], ["resident", "resident_bytes", "--pressure"]] },
];

export class Charts {
  #plots = [];
  #answer = null;
  #colors = matchMedia("(prefers-color-scheme: dark)");
  #redraw = () => this.#build();

  constructor() {
    this.node = element("section", { class: "charts", "aria-label": "Last half hour" });
    this.places = CHARTS.map((chart) => {
      const place = element("div", { role: "img" });
      const words = element("p", { class: "muted" });
      this.node.append(element("div", { class: "chart" }, element("h3", {}, chart.title), words, place));
      return { place, words };
    });
    this.observer = new ResizeObserver(() => this.#resize());
    this.#colors.addEventListener("change", this.#redraw);
  }

  show(answer) {
    this.#answer = answer;
    CHARTS.forEach((chart, index) => {
      const words = inWords(chart, answer.history);
      this.places[index].words.textContent = words;
      this.places[index].place.setAttribute("aria-label", `${chart.title}: ${words}`);
    });
    if (this.#plots.length) this.#plots.forEach((plot, index) => plot.setData(data(CHARTS[index], this.#answer)));
    else this.#build();
  }

  destroy() {
    this.observer.disconnect();
    this.#colors.removeEventListener("change", this.#redraw);
    this.#plots.forEach((plot) => plot.destroy());
    this.#plots = [];
  }

  #build() {
    if (this.#answer === null) return;
    this.#plots.forEach((plot) => plot.destroy());
    const colors = getComputedStyle(document.documentElement);
    this.#plots = CHARTS.map((chart, index) =>
      new uPlot(options(chart, colors, this.#width(index), () => this.#answer.now_ms / 1000),
        data(chart, this.#answer), this.places[index].place));
    this.observer.observe(this.node);
  }

  #width(index) {
    return Math.max(100, this.places[index].place.clientWidth);
  }

  #resize() {
    this.#plots.forEach((plot, index) => {
      if (plot.width !== this.#width(index)) plot.setSize({ width: this.#width(index), height: HEIGHT });
    });
  }
}

function options(chart, colors, width, nowS) {
  const color = (name) => colors.getPropertyValue(name).trim();
  const axis = { stroke: color("--muted"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 } };
  return {
    width,
    height: HEIGHT,
    cursor: { sync: { key: "vm" }, drag: { x: false, y: false } },
    legend: { show: chart.series.length > 1 },
    scales: {
      x: { time: true, range: () => [nowS() - SPAN_S, nowS()] },
      y: { range: chart.range ?? ((_, low, high) => [0, Math.max(chart.least ?? 1, (high ?? 0) * 1.1)]) },
    },
    axes: [{ ...axis, size: 30, values: (_, ticks) => ticks.map(clock) }, { ...axis, size: 72, ...(chart.incrs && { incrs: chart.incrs }), values: (_, ticks) => ticks.map(chart.text) }],
    series: [{}, ...chart.series.map(([label, , stroke]) => ({
      label, stroke: color(stroke), width: 1.5, points: { show: false },
      value: (_, value) => (value === null || value === undefined ? NOT_KNOWN : chart.text(value)),
    }))],
    tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
  };
}

function clock(unixS) {
  return new Date(unixS * 1000).toISOString().slice(11, 16);
}

// Returns uPlot's columns: a null where a gap begins, since uPlot leads its lines over missing times.
function data(chart, { history }) {
  if (history === null) return [[], ...chart.series.map(() => [])];
  const times = [];
  const columns = chart.series.map(() => []);
  history.at_s.forEach((at, place) => {
    if (place && at - history.at_s[place - 1] > GAP_S) {
      times.push(at - 1);
      columns.forEach((column) => column.push(null));
    }
    times.push(at);
    // `undefined` is led over: the host's view comes less often than the samples.
    chart.series.forEach(([, name], index) => columns[index].push(history[name][place] ?? undefined));
  });
  return [times, ...columns];
}

function inWords(chart, history) {
  const words = chart.series.map(([label, name]) => {
    const known = history === null ? [] : history[name].filter((each) => each !== null);
    if (!known.length) return `${label} not known`;
    const [low, high] = [Math.min(...known), Math.max(...known)];
    return `${label} ${chart.text(known.at(-1))}, from ${chart.text(low)} to ${chart.text(high)}`;
  });
  return words.join("; ");
}
