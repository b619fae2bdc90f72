// The VMs as the agent sends them, and which of them are shown in which order.

// The order of `Row` in agent/web/overview.py, after the version.
const FIELDS = [
  "version", "key", "name", "path", "labels", "attention", "level", "state", "reason", "isExpected", "sinceMs",
  "lastUpdateS", "availableBytes", "totalBytes", "swap", "faults", "actualBytes", "configuredBytes",
  "residentBytes", "spark", "sparkMinute",
];

export const PRESSURE_ATTENTION = 2;
export const SILENT_ATTENTION = 3;
export const WAITING_ATTENTION = 4; // connecting or waiting

export function vm(row) {
  const made = {};
  FIELDS.forEach((name, index) => { made[name] = row[index]; });
  made.share = made.totalBytes && made.availableBytes !== null
    ? Math.min(1, made.availableBytes / made.totalBytes) : null;
  made.words = `${made.name}\n${made.key}\n${made.path}\n${made.labels}\n${made.state}\n${made.reason}`.toLowerCase();
  return made;
}

const KEYS = {
  attention: (each) => each.attention,
  name: (each) => each.name,
  available: (each) => (each.state === "reporting" ? each.share : null),
  swap: (each) => each.swap,
  faults: (each) => each.faults,
  balloon: (each) => (each.configuredBytes ? each.actualBytes / each.configuredBytes : each.actualBytes),
  resident: (each) => each.residentBytes,
  age: (each) => (each.lastUpdateS === null ? null : -each.lastUpdateS),
  state: (each) => `${each.state} ${each.reason}`,
};

// By a number the worst come first: the least available memory, but the highest rates.
export const FIRST_DIRECTION = { swap: "descending", faults: "descending", age: "descending", resident: "descending" };

export function chosen(vms, view) {
  const words = view.q.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = vms.filter((each) => isShown(each, view.show) && words.every((word) => each.words.includes(word)));
  const key = KEYS[view.sort] ?? KEYS.attention;
  const sign = view.dir === "descending" ? -1 : 1;
  return shown.map((each) => [key(each), each]).sort(([a, one], [b, other]) => {
    if (a !== b) {
      if (a === null) return 1; // not known: last in both directions
      if (b === null) return -1;
      return a < b ? -sign : sign;
    }
    return one.attention - other.attention || compare(one.name, other.name) || compare(one.key, other.key);
  }).map(([, each]) => each);
}

function isShown(each, show) {
  if (show === "") return true;
  if (show === "attention") return each.attention <= WAITING_ATTENTION;
  return each.level === show || each.state === show;
}

function compare(a, b) {
  return a === b ? 0 : a < b ? -1 : 1;
}
