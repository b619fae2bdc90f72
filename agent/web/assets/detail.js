// One VM: what is wrong and what to do, charts of the last half hour, and all that the agent knows of it.

import { Charts } from "./charts.js";
import { element, marked } from "./dom.js";
import { bytes, NOT_KNOWN, number, percent, span, time } from "./format.js";
import { pairs } from "./summary.js";

const SIZES = /_memory$|^swap_|_caches$|_scans$|_reclaims$/;

export class Detail {
  #article;
  #back;
  #charts = null;
  #key = "";

  // `back` returns the fragment of the view that the detail was opened from.
  constructor(article, back) {
    this.#article = article;
    this.#back = back;
  }

  open(key, name) {
    this.close();
    this.#key = key;
    const heading = element("h2", { id: "detail-name", tabindex: -1 }, element("bdi", {}, name));
    this.#article.replaceChildren(
      element("header", {}, element("a", { href: this.#back(), class: "back" }, "All VMs"), heading),
      element("p", { class: "muted" }, "Loading."),
    );
    this.#article.hidden = false;
    heading.focus();
  }

  close() {
    this.#charts?.destroy();
    this.#charts = null;
    this.#key = "";
    this.#article.replaceChildren();
  }

  show(key, answer) {
    if (key !== this.#key) return;
    this.#article.querySelector(".back").setAttribute("href", this.#back());
    if (answer.vm === null) {
      this.#charts?.destroy();
      this.#charts = null;
      this.#rest([element("p", {}, "The agent knows no such VM now: it is gone, or on another host.")]);
      return;
    }
    const vm = identity(answer.vm);
    this.#article.querySelector("h2 bdi").textContent = vm.name || vm.path || vm.id;
    this.#charts ??= new Charts();
    const isFirst = !this.#charts.node.isConnected;
    const blocks = [now(answer), advice(answer), this.#charts.node, ...facts(answer)];
    if (isFirst) this.#rest(blocks);
    else this.#update(blocks);
    this.#charts.show(answer);
  }

  #rest(blocks) {
    while (this.#article.children.length > 1) this.#article.lastElementChild.remove();
    this.#article.append(...blocks);
  }

  // The charts stay in place: a canvas that is taken out loses the cursor that is on it.
  #update(blocks) {
    const old = [...this.#article.children].slice(1);
    blocks.forEach((block, place) => {
      if (old[place] !== block && !old[place].isEqualNode(block)) old[place].replaceWith(block);
    });
  }
}

function isKnown(value) {
  return value !== null && value !== undefined;
}

function identity(vm) {
  return vm.state.vm ?? {};
}

function now({ vm, level, now_ms: nowMs }) {
  const { state } = vm;
  const isPressed = level && level !== "none";
  const since = (ms) => ` for ${span((nowMs - ms) / 1000)}, since ${time(ms)}`;
  return element("section", { "aria-label": "Now" },
    ...(isPressed ? [element("p", {}, element("span", { class: `badge ${level}` }, level), since(vm.since_ms), ".")] : []),
    element("p", {}, element("strong", {}, state.state), state.reason ? ` (${state.reason})` : "",
      since(state.since_ms), "; newest update ", vm.age_s === null ? "never" : `${span(vm.age_s)} ago`, "."),
    element("p", {}, state.detail || ""));
}

function advice(answer) {
  const section = element("section", { "aria-label": "What to do" });
  const texts = [];
  if (answer.advice) texts.push([answer.level, answer.advice]);
  const { explanation, state } = answer.vm;
  if (explanation && (texts.length === 0 || state.state !== "reporting")) texts.push([state.reason || state.state, explanation]);
  for (const [name, each] of texts) {
    section.append(element("div", { class: "advice" },
      element("p", {}, element("strong", {}, `${name}: `), ...marked(each.meaning), "."),
      element("p", {}, "What to do: ", ...marked(each.next_step), ".")));
  }
  return section;
}

function facts(answer) {
  const { vm } = answer;
  const known = identity(vm);
  const memory = vm.memory ?? {};
  const configured = memory.configured;
  return [element("div", { class: "columns" },
    section("Identity", list([
      ["name", known.name ?? NOT_KNOWN], ["id", known.id ?? NOT_KNOWN], ["path", known.path ?? NOT_KNOWN],
      ["through", vm.state.via ?? NOT_KNOWN], ["run state", vm.state.run_state ?? NOT_KNOWN],
      ["polling interval", isKnown(vm.state.polling_interval_s) ? `${vm.state.polling_interval_s} s` : NOT_KNOWN],
      ...Object.entries(known.labels ?? {}).map(([name, value]) => [`label ${name}`, value]),
    ])),
    section("Memory as the host sees it", list([
      ["balloon actual", bytes(memory.balloon?.actual_bytes ?? vm.sample?.balloon?.actual_bytes)],
      ["configured", configured ? bytes(configured.base_bytes + configured.plugged_bytes) : NOT_KNOWN],
      ["resident", bytes(memory.process?.resident_bytes)], ["swapped out", bytes(memory.process?.swap_bytes)],
      ["limit of the cgroup", bytes(memory.cgroup?.limit_bytes)],
    ])),
    section("Pressure", pressure(vm.pressure)),
    section("Newest sample", statistics(vm.sample)),
    section("States", changes(answer.changes)))];
}

function section(title, ...children) {
  return element("section", { "aria-label": title }, element("h3", {}, title), ...children);
}

function list(rows) {
  const made = element("dl");
  pairs(made, rows);
  return made;
}

function pressure(value) {
  if (value === null) return element("p", {}, "not known");
  const components = Object.entries(value.components).map(([name, each]) => [name, each === null ? "not available" : each.toFixed(2)]);
  return list([["level", `${value.level}, since ${time(value.since * 1000)}`],
    ["score", value.score === null ? "not available" : value.score.toFixed(2)], ...components]);
}

function statistics(sample) {
  if (sample === null) return element("p", {}, "none yet");
  const { statistics: all } = sample;
  const share = all.total_memory ? [["available share", percent(all.available_memory / all.total_memory)]] : [];
  return list([["last update", time(sample.last_update * 1000)], ...share,
    ...Object.entries(all).map(([name, value]) => [name, SIZES.test(name) ? bytes(value) : number(value)])]);
}

function changes(all) {
  if (!all.length) return element("p", {}, "none since the agent's start");
  const rows = all.map((each) => element("tr", {}, element("td", {}, time(each.at_ms)),
    element("td", {}, each.state), element("td", {}, each.reason)));
  return element("table", {},
    element("thead", {}, element("tr", {}, ...["since", "state", "reason"].map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...rows));
}
