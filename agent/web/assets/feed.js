// Requests the newest values again and again, and not while nobody sees the page.

const EVERY_MS = 5_000;
const TIMEOUT_MS = 8_000;

export class Feed {
  #urls;
  #onValues;
  #onTrouble;
  #timer = 0;
  #round = 0;
  #sinceMs = null;

  // `urls` returns what to request; `onValues` gets the answers in the same order; `onTrouble` gets since when
  // the agent is unreachable, or null once it answers again.
  constructor(urls, onValues, onTrouble) {
    this.#urls = urls;
    this.#onValues = onValues;
    this.#onTrouble = onTrouble;
    document.addEventListener("visibilitychange", () => this.refresh());
  }

  // An answer that is under way is then no longer of use.
  refresh() {
    clearTimeout(this.#timer);
    this.#round += 1;
    if (!document.hidden) this.#ask(this.#round);
  }

  async #ask(round) {
    let values = null;
    try {
      values = await Promise.all(this.#urls().map(answer));
    } catch {
      // The agent was stopped, or something between here and there.
    }
    if (round !== this.#round) return;
    if (values === null) {
      this.#sinceMs ??= Date.now();
      this.#onTrouble(this.#sinceMs);
    } else {
      if (this.#sinceMs !== null) this.#onTrouble(null);
      this.#sinceMs = null;
      this.#onValues(values);
    }
    this.#timer = setTimeout(() => this.#ask(round), values === null ? EVERY_MS / 2 : EVERY_MS);
  }
}

async function answer(url) {
  const response = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  return response.json();
}
