// What the page shows, as the fragment of its URL: a link leads to the same view.

const DEFAULTS = { q: "", show: "", sort: "attention", dir: "ascending", vm: "" };

export function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const view = {};
  for (const [name, usual] of Object.entries(DEFAULTS)) view[name] = given.get(name) ?? usual;
  if (view.dir !== "descending") view.dir = "ascending";
  return view;
}

export function fragment(view) {
  const given = new URLSearchParams();
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    if (view[name] !== usual) given.set(name, view[name]);
  }
  return `#${given}`;
}

// A change while typing is no step of its own for the browser's back button.
export function replace(view) {
  history.replaceState(null, "", fragment(view));
}
