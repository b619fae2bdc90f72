// The sparkline of a VM: the lowest available share of each of the last thirty minutes.

import { percent } from "./format.js";

const MINUTES = 30;
const WIDTH = 60;
const HEIGHT = 26;
const ZERO = "0".charCodeAt(0);

// Returns the path; minutes without a value are gaps.
export function line(vm, minute) {
  const late = Math.max(0, minute - vm.sparkMinute); // minutes since the last character
  let path = "";
  let isOpen = false;
  for (let at = 0; at < MINUTES; at += 1) {
    const value = valueAt(vm.spark, at + late);
    if (value === null) {
      isOpen = false;
      continue;
    }
    const x = ((at / (MINUTES - 1)) * WIDTH).toFixed(1);
    const y = (HEIGHT - 1 - value * (HEIGHT - 2)).toFixed(1);
    path += isOpen ? `L${x} ${y}` : `M${x} ${y}h.1`; // a value between two gaps is a dot
    isOpen = true;
  }
  return path;
}

export function lowest(vm) {
  const known = [...vm.spark].map((_, at) => valueAt(vm.spark, at)).filter((each) => each !== null);
  return known.length ? `lowest ${percent(Math.min(...known))}` : "not known";
}

function valueAt(spark, at) {
  const character = spark[at];
  return character === undefined || character === " " ? null : (character.charCodeAt(0) - ZERO) / 63;
}
