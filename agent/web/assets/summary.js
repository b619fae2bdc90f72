// What is above the VMs: the host's memory, and the agent's components with their queues.

import { element, marked, setText } from "./dom.js";
import { bytes, counted, NOT_KNOWN, number, percent, span } from "./format.js";
import { PRESSURE_ATTENTION, SILENT_ATTENTION, WAITING_ATTENTION } from "./rows.js";

export function showHost(list, host) {
  if (host === null) {
    list.replaceChildren(element("dt", {}, "memory"), element("dd", {}, "not known"));
    return;
  }
  const share = host.total_bytes && host.available_bytes !== null ? host.available_bytes / host.total_bytes : null;
  const swapUsed = host.swap_total_bytes === null || host.swap_free_bytes === null
    ? null : host.swap_total_bytes - host.swap_free_bytes;
  pairs(list, [
    ["available", `${bytes(host.available_bytes)} of ${bytes(host.total_bytes)} (${percent(share)})`],
    ["swap used", `${bytes(swapUsed)} of ${bytes(host.swap_total_bytes)}`],
    ["waiting for memory", `some ${stall(host.psi_some_avg10)}, all ${stall(host.psi_full_avg10)}`],
    ["unused by VMs", bytes(host.unused_by_vms_bytes)],
    ["configured for VMs", host.overcommit === null ? NOT_KNOWN : `${percent(host.overcommit)} of the host`],
  ]);
}

function stall(avg10) {
  return avg10 === null ? NOT_KNOWN : `${avg10.toFixed(1)} %`;
}

export function pairs(list, rows) {
  if (list.children.length !== 2 * rows.length) {
    list.replaceChildren(...rows.flatMap(() => [element("dt"), element("dd")]));
  }
  rows.forEach(([name, value], index) => {
    setText(list.children[2 * index], name);
    setText(list.children[2 * index + 1], value);
  });
}

export function showComponents(table, values) {
  const { components, outlook, now_ms: nowMs } = values;
  const rows = Object.entries(components).map(([name, each]) => {
    const queue = outlook.queues[name];
    return [name, each.state, span((nowMs - each.since_ms) / 1000), ...numbers(queue, nowMs), forecast(name, queue, outlook.spool), each.next_step === null ? each.why : ""];
  });
  const body = table.tBodies[0];
  while (body.rows.length > rows.length) body.lastElementChild.remove();
  while (body.rows.length < rows.length) {
    body.append(element("tr", {}, element("th", { scope: "row" }), element("td"), element("td"),
      element("td", { class: "n" }), element("td", { class: "n" }), element("td", { class: "n" }),
      element("td", { class: "n" }), element("td"), element("td")));
  }
  rows.forEach((row, place) => {
    row.forEach((text, column) => setText(body.rows[place].cells[column], text));
    body.rows[place].cells[1].className = row[1];
  });
}

// Apart from the table, whose last columns may be out of sight.
export function showDegraded(list, components) {
  const items = Object.entries(components).filter(([, each]) => each.next_step !== null).map(([name, each]) =>
    element("li", {}, element("strong", {}, `${name}: `), each.why, ". What to do: ", ...marked(each.next_step), "."));
  const same = items.length === list.children.length && items.every((each, place) => each.isEqualNode(list.children[place]));
  if (!same) list.replaceChildren(...items);
}

function numbers(queue, nowMs) {
  if (!queue) return ["", "", "", ""];
  const oldest = queue.oldest_ms === null ? "" : span((nowMs - queue.oldest_ms) / 1000);
  return [queue.size.toLocaleString("en-US"), oldest, rate(queue.added_per_s), rate(queue.delivered_per_s)];
}

function rate(perSecond) {
  return perSecond === null ? NOT_KNOWN : `${number(perSecond)}/s`;
}

function forecast(name, queue, spool) {
  if (name === "spool" && spool !== null) {
    const used = `${bytes(spool.used_bytes)} of ${bytes(spool.limit_bytes)}`;
    return spool.full_in_s === null ? used : `${used}, full in ${span(spool.full_in_s)}`;
  }
  if (!queue || !queue.size || queue.added_per_s === null) return "";
  return queue.empty_in_s === null ? "does not drain" : `empty in ${span(queue.empty_in_s)}`;
}

export function summary(vms) {
  if (!vms.length) return "no VM found yet";
  const pressed = vms.filter((each) => each.attention <= PRESSURE_ATTENTION).length;
  const silent = vms.filter((each) => each.attention === SILENT_ATTENTION).length;
  const waiting = vms.filter((each) => each.attention === WAITING_ATTENTION).length;
  const found = `${counted(vms.length, "VM")}: ${pressed} under pressure, ${silent} silent`;
  return waiting ? `${found}, ${waiting} waiting` : found;
}
