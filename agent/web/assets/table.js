// The table of VMs. Only the rows in sight are in the document; of these, only what changed is touched.

import { element, setAttribute, setText, svg } from "./dom.js";
import { bytes, NOT_KNOWN, number, percent, span } from "./format.js";
import { FIRST_DIRECTION, WAITING_ATTENTION } from "./rows.js";
import { line, lowest } from "./spark.js";
import { fragment } from "./view.js";

const MARGIN_ROWS = 8;
const SHORT_SHARE = 0.05;

export class Table {
  #table;
  #body;
  #above;
  #below;
  #rows = new Map(); // by key: those in the document
  #vms = [];
  #view;
  #nowMs = 0;
  #active = ""; // the key of the row that the keyboard is on
  #rowHeight = 40;

  constructor(table, onSort) {
    this.#table = table;
    this.#body = table.tBodies[0];
    this.#above = spacer();
    this.#below = spacer();
    this.#body.append(this.#above, this.#below);
    for (const head of table.querySelectorAll("th[data-sort]")) {
      head.querySelector("button").addEventListener("click", () => onSort(this.#next(head.dataset.sort)));
    }
    this.#body.addEventListener("focusin", (event) => {
      this.#active = event.target.closest("tr")?.dataset.key ?? this.#active;
      this.#markActive();
    });
    addEventListener("scroll", () => this.#draw(), { passive: true });
    addEventListener("resize", () => this.#draw());
  }

  show(vms, view, nowMs) {
    this.#vms = vms;
    this.#view = view;
    this.#nowMs = nowMs;
    setAttribute(this.#table, "aria-rowcount", String(vms.length + 1));
    for (const head of this.#table.querySelectorAll("th[data-sort]")) {
      if (head.dataset.sort === view.sort) setAttribute(head, "aria-sort", view.dir);
      else head.removeAttribute("aria-sort");
    }
    this.#draw();
  }

  // Moves the keyboard's row by `step`, and returns whether there is one.
  move(step) {
    if (!this.#vms.length) return false;
    const at = this.#vms.findIndex((each) => each.key === this.#active);
    const to = at < 0 ? 0 : Math.min(this.#vms.length - 1, Math.max(0, at + step));
    this.focus(this.#vms[to].key);
    return true;
  }

  focus(key) {
    const place = this.#vms.findIndex((each) => each.key === key);
    if (place < 0) return;
    this.#active = key;
    const top = this.#top() + place * this.#rowHeight;
    const head = this.#table.tHead.offsetHeight;
    if (top < scrollY + head) scrollTo(0, top - head);
    else if (top + this.#rowHeight > scrollY + innerHeight) scrollTo(0, top + this.#rowHeight - innerHeight);
    this.#draw();
    this.#rows.get(key)?.link.focus({ preventScroll: true });
  }

  get page() {
    return Math.max(1, Math.floor(innerHeight / this.#rowHeight) - 2);
  }

  #next(sort) {
    const first = FIRST_DIRECTION[sort] ?? "ascending";
    if (this.#view.sort !== sort) return { sort, dir: first };
    return { sort, dir: this.#view.dir === "ascending" ? "descending" : "ascending" };
  }

  #top() {
    return this.#body.getBoundingClientRect().top + scrollY;
  }

  #draw() {
    if (!this.#view || !this.#table.offsetParent) return;
    const from = Math.max(0, Math.floor((scrollY - this.#top()) / this.#rowHeight) - MARGIN_ROWS);
    const to = Math.min(this.#vms.length, from + Math.ceil(innerHeight / this.#rowHeight) + 2 * MARGIN_ROWS);
    const shown = this.#vms.slice(Math.min(from, to), to);
    const keys = new Set(shown.map((each) => each.key));
    for (const [key, row] of this.#rows) {
      if (!keys.has(key)) {
        row.node.remove();
        this.#rows.delete(key);
      }
    }
    let before = this.#above;
    shown.forEach((each, index) => {
      let row = this.#rows.get(each.key);
      if (!row) {
        row = new Row(each.key);
        this.#rows.set(each.key, row);
      }
      if (before.nextSibling !== row.node) before.after(row.node);
      before = row.node;
      row.show(each, this.#view, this.#nowMs);
      setAttribute(row.node, "aria-rowindex", String(from + index + 2));
    });
    height(this.#above, from * this.#rowHeight);
    height(this.#below, (this.#vms.length - to) * this.#rowHeight);
    this.#markActive();
  }

  // One row is in the order of the Tab key: that of the keyboard, or the first one.
  #markActive() {
    const active = this.#rows.has(this.#active) ? this.#active : this.#rows.keys().next().value;
    for (const [key, row] of this.#rows) setAttribute(row.link, "tabindex", key === active ? "0" : "-1");
  }
}

function spacer() {
  return element("tr", { class: "spacer", "aria-hidden": "true" }, element("td"));
}

function height(row, pixels) {
  row.hidden = pixels <= 0;
  row.firstChild.style.height = `${Math.max(0, pixels)}px`;
}

class Row {
  #version = null;
  #minute = null;
  #href = "";

  constructor(key) {
    this.badge = element("span");
    this.since = element("small");
    this.level = element("td", { class: "level" }, this.badge, this.since);
    this.name = element("bdi");
    this.link = element("a", {}, this.name);
    this.where = element("small");
    this.fill = svg("rect", { class: "fill", height: 6, width: 0 });
    this.bar = svg("svg", { class: "bar", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { class: "back", width: 100, height: 6 }), this.fill);
    this.share = element("span");
    this.total = element("span", { class: "total" });
    this.available = element("td", { class: "available" }, this.share, this.total, this.bar);
    this.path = svg("path");
    this.lowest = element("span", { class: "hidden-text" });
    this.spark = element("td", { class: "spark wide" },
      svg("svg", { viewBox: "0 0 60 26", preserveAspectRatio: "none", "aria-hidden": "true" }, this.path), this.lowest);
    this.swap = element("td", { class: "n wide" });
    this.faults = element("td", { class: "n wide" });
    this.balloon = element("td", { class: "n wide" });
    this.resident = element("td", { class: "n wide" });
    this.age = element("td", { class: "n age" });
    this.state = element("span");
    this.reason = element("small");
    this.node = element("tr", {}, this.level, element("td", { class: "name" }, this.link), this.available, this.spark,
      this.swap, this.faults, this.balloon, this.resident, this.age, element("td", { class: "state" }, this.state, this.reason));
    this.node.dataset.key = key;
  }

  show(vm, view, nowMs) {
    const href = fragment({ ...view, vm: vm.key });
    if (href !== this.#href) {
      this.#href = href;
      this.link.setAttribute("href", href);
    }
    const ageS = vm.lastUpdateS === null ? null : Math.max(0, nowMs / 1000 - vm.lastUpdateS);
    setText(this.age, span(ageS));
    const needsAttention = vm.attention <= WAITING_ATTENTION;
    setText(this.since, needsAttention ? span(Math.max(0, (nowMs - vm.sinceMs) / 1000)) : "");
    const minute = Math.floor(nowMs / 60_000);
    if (vm.version !== this.#version || minute !== this.#minute) {
      setAttribute(this.path, "d", line(vm, minute));
      setText(this.lowest, lowest(vm));
      this.#minute = minute;
    }
    if (vm.version === this.#version) return;
    this.#version = vm.version;
    this.#showLevel(vm);
    setText(this.name, vm.name);
    setAttribute(this.link, "title", vm.path);
    this.#showAvailable(vm);
    setText(this.swap, vm.swap === null ? NOT_KNOWN : bytes(vm.swap));
    setText(this.faults, number(vm.faults));
    setText(this.balloon, `${bytes(vm.actualBytes)} / ${bytes(vm.configuredBytes)}`);
    setText(this.resident, bytes(vm.residentBytes));
    setText(this.state, vm.state);
    this.state.className = vm.isExpected ? "" : "unexpected";
    setText(this.reason, vm.reason);
  }

  #showLevel(vm) {
    const silent = vm.level === null && !vm.isExpected;
    const text = silent ? "silent" : vm.level ?? NOT_KNOWN;
    if (this.badge.textContent === text) return;
    const kind = silent ? "silent" : vm.level;
    this.badge.className = kind && kind !== "none" ? `badge ${kind}` : "muted";
    setText(this.badge, text);
  }

  #showAvailable(vm) {
    const isOld = vm.state !== "reporting";
    setText(this.share, vm.share === null ? "not known" : `${isOld ? "was " : ""}${percent(vm.share)}`);
    setText(this.total, vm.share === null ? "" : ` of ${bytes(vm.totalBytes)}`);
    this.available.className = isOld || vm.share === null ? "available old" : "available";
    this.bar.classList.toggle("unknown", vm.share === null);
    this.fill.setAttribute("width", (100 * (vm.share ?? 0)).toFixed(1));
    this.fill.setAttribute("class", vm.share !== null && vm.share < SHORT_SHARE ? "fill short" : "fill");
  }
}
