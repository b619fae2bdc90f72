// The page: gets the values, keeps the VMs, and follows the fragment of the URL and the keyboard.

import { Detail } from "./detail.js";
import { setText } from "./dom.js";
import { counted, time } from "./format.js";
import { Feed } from "./feed.js";
import { chosen, SILENT_ATTENTION, vm } from "./rows.js";
import { showComponents, showDegraded, showHost, summary } from "./summary.js";
import { Table } from "./table.js";
import * as views from "./view.js";

const at = (id) => document.getElementById(id);

let view = views.read();
let vms = new Map(); // by key
let values = null;

const table = new Table(at("vms"), (sort) => follow({ ...view, ...sort }));
const detail = new Detail(at("detail"), () => views.fragment({ ...view, vm: "" }));
const feed = new Feed(urls, onValues, onTrouble);

function urls() {
  return view.vm === "" ? ["api/overview"] : ["api/overview", `api/vm?id=${encodeURIComponent(view.vm)}`];
}

function onValues([overview, one]) {
  performance.mark("update-begins");
  const isSameRun = values?.run === overview.run;
  values = overview;
  const known = isSameRun ? vms : new Map();
  vms = new Map(overview.rows.map((row) => {
    const before = known.get(row[1]);
    return [row[1], before?.version === row[0] ? before : vm(row)];
  }));
  show();
  if (one && view.vm !== "") detail.show(view.vm, one);
  performance.measure("update", "update-begins");
}

function show() {
  const all = [...vms.values()];
  const urgent = all.filter((each) => each.attention <= SILENT_ATTENTION).length;
  document.title = `${urgent ? `(${urgent}) ` : ""}${values.host_name} – Barograph`;
  setText(at("host-name"), `on ${values.host_name}`);
  setText(at("summary"), summary(all));
  setText(at("agent-state"), values.agent.state);
  at("agent-state").className = values.agent.state;
  setText(at("about"), `Barograph ${values.version}, host ${values.host_id}.`);
  at("overview").hidden = view.vm !== "";
  at("detail").hidden = view.vm === "";
  if (view.vm !== "") return;
  showHost(at("host"), values.host);
  showComponents(at("components"), values);
  showDegraded(at("degraded"), values.components);
  const shown = chosen(all, view);
  table.show(shown, view, values.now_ms);
  setText(at("count"), shown.length === all.length ? "" : `${shown.length} of ${counted(all.length, "VM")}`);
  at("empty").hidden = shown.length > 0;
  setText(at("empty"), all.length ? "No VM matches the filter." : "The agent has not found a VM yet.");
}

function onTrouble(sinceMs) {
  document.body.classList.toggle("stale", sinceMs !== null);
  at("trouble").hidden = sinceMs === null;
  if (sinceMs === null) {
    setText(at("trouble"), "");
    return;
  }
  const shown = values === null ? "" : ` The values shown are those of ${time(values.now_ms)}.`;
  setText(at("trouble"), `The agent is unreachable since ${time(sinceMs)}. The page tries again by itself.${shown}`);
}

// A change of the view by a click becomes a step that the browser's back button undoes.
function follow(next) {
  location.hash = views.fragment(next);
}

function onView() {
  const before = view;
  view = views.read();
  at("text").value = view.q;
  at("show").value = view.show;
  if (values !== null) show();
  if (view.vm !== before.vm) {
    if (view.vm === "") {
      detail.close();
      table.focus(before.vm);
    } else {
      scrollTo(0, 0);
      detail.open(view.vm, vms.get(view.vm)?.name ?? view.vm);
      feed.refresh();
    }
  }
}

function onType() {
  view = { ...view, q: at("text").value, show: at("show").value };
  views.replace(view);
  if (values !== null) show();
}

const STEPS = {
  ArrowDown: () => 1, ArrowUp: () => -1, PageDown: () => table.page, PageUp: () => -table.page,
  Home: () => -Infinity, End: () => Infinity,
};

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const isTyping = event.target.matches("input, select, .scroll");
  if (event.key === "Escape") {
    if (view.vm !== "") follow({ ...view, vm: "" });
    else if (event.target === at("text")) event.target.blur();
  } else if (event.key === "/" && !isTyping && view.vm === "") {
    event.preventDefault();
    at("text").focus();
  } else if (view.vm === "" && STEPS[event.key] && (!isTyping || (event.target === at("text") && event.key === "ArrowDown"))) {
    if (table.move(STEPS[event.key]())) event.preventDefault();
  }
}

at("text").addEventListener("input", onType);
at("show").addEventListener("input", onType);
at("filter").addEventListener("submit", (event) => {
  event.preventDefault();
  table.move(0);
});
addEventListener("hashchange", onView);
document.addEventListener("keydown", onKey);
at("text").value = view.q;
at("show").value = view.show;
if (view.vm !== "") detail.open(view.vm, view.vm);
feed.refresh();
