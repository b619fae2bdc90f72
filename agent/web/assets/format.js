// Numbers as texts for people. `null` is not known, and is never shown as 0.

export const NOT_KNOWN = "–";

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

export function bytes(value) {
  if (value === null || value === undefined) return NOT_KNOWN;
  let unit = 0;
  let size = Math.abs(value);
  while (size >= 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  const digits = size >= 100 || unit === 0 ? 0 : 1;
  return `${value < 0 ? "-" : ""}${size.toFixed(digits)} ${UNITS[unit]}`;
}

export function percent(share) {
  if (share === null || share === undefined) return NOT_KNOWN;
  const value = share * 100;
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} %`;
}

export function number(value) {
  if (value === null || value === undefined) return NOT_KNOWN;
  return value !== 0 && Math.abs(value) < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en-US");
}

export function counted(count, noun) {
  return `${count.toLocaleString("en-US")} ${noun}${count === 1 ? "" : "s"}`;
}

const SPANS = [[86_400, "d"], [3_600, "h"], [60, "min"]];

export function span(seconds) {
  if (seconds === null || seconds === undefined) return NOT_KNOWN;
  for (const [length, unit] of SPANS) {
    if (seconds >= 2 * length) return `${Math.min(99_999, Math.floor(seconds / length))} ${unit}`;
  }
  return `${Math.max(0, Math.round(seconds))} s`;
}

export function time(unixMs) {
  const at = new Date(unixMs);
  return Number.isNaN(at.getTime()) || !unixMs ? NOT_KNOWN : `${at.toISOString().slice(0, 19).replace("T", " ")}Z`;
}
