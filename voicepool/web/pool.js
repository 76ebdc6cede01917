/** What the server says of itself besides calls: whether there is a free line, and what it does. */

const KEY = "voicepool.key";
/** Milliseconds in which what limits an address flows back: who asks on leaves no call to be had. */
const RESPITE = 60_000;
/** What a server that is not ready may say of itself, beside having no free line. */
const REASONS = ["starting", "draining", "unavailable"];
/** Milliseconds after which a server that does not answer counts as away. */
const PATIENCE = 5000;

/**
 * @typedef {object} PoolStatus
 * @property {number} warm workers that wait for a caller
 * @property {number} busy workers in a call
 * @property {number} coming workers that start or warm up
 * @property {number} waiting callers without a worker
 * @property {number} lines callers that are served at once, at most
 * @property {boolean} draining no new calls are taken
 */

export class Pool {
  #key;

  /** @param {string | URL} base where the page came from; everything is found beside it */
  constructor(base) {
    this.base = base;
    this.#key = ifAllowed(() => sessionStorage.getItem(KEY)) ?? "";
  }

  /** Where calls go. @returns {URL} */
  get callUrl() {
    const url = new URL("v1/realtime", this.base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    return url;
  }

  /** The API key or client secret, kept until the tab closes; "" where there is none. */
  get key() {
    return this.#key;
  }

  set key(key) {
    this.#key = key;
    ifAllowed(() => {
      if (key) sessionStorage.setItem(KEY, key);
      else sessionStorage.removeItem(KEY);
    });
  }

  /**
   * Whether a caller would be served, or held until a line is free.
   * @param {AbortSignal} [signal]
   * @returns {Promise<"ready" | "busy" | "starting" | "draining" | "unavailable" | "away">}
   */
  async readiness(signal) {
    const answer = await this.#get("readyz", {}, signal);
    if (answer?.ok && answer.body) return "ready";
    // A proxy in front of a server that is down answers for it: 502, 504, or a 503 of its own.
    if (answer?.code !== 503 || !answer.body) return "away";
    return REASONS.includes(answer.body.reason) ? answer.body.reason : "busy";
  }

  /**
   * @param {AbortSignal} [signal]
   * @returns {Promise<PoolStatus | "key" | "limited" | "hidden" | "away">} "key": it wants one, or does
   *   not know this one; "limited": our address asks too often; "hidden": a balancer keeps it to itself
   */
  async status(signal) {
    const headers = this.key ? { Authorization: `Bearer ${this.key}` } : {};
    const answer = await this.#get("status", headers, signal);
    if (answer?.code === 401) return "key";
    if (answer?.code === 429) return "limited";
    if (answer?.code === 404) return "hidden";
    return answer?.ok && answer.body?.pool ? summary(answer.body) : "away";
  }

  /**
   * The answer, with a null body where that is no JSON, as the server's always is; null where nobody
   * answers. Throws what `signal` was aborted with.
   *
   * @returns {Promise<{ok: boolean, code: number, body: any} | null>}
   */
  async #get(path, headers, signal) {
    const patience = AbortSignal.timeout(PATIENCE);
    try {
      const init = { headers, signal: either(signal, patience) };
      const response = await fetch(new URL(path, this.base), init);
      const { ok, status: code } = response;
      return { ok, code, body: json(await response.text()) };
    } catch {
      signal?.throwIfAborted();
      return null;
    }
  }
}

/**
 * @param {{pool: Record<string, any>}} report what /status answers
 * @returns {PoolStatus}
 */
export function summary({ pool }) {
  const { states } = pool;
  return {
    warm: states.idle ?? 0,
    busy: pool.callers,
    coming: (states.starting ?? 0) + (states.warming ?? 0),
    waiting: pool.waiting,
    lines: pool.max_connections,
    draining: pool.draining,
  };
}

/**
 * Some browsers let a page keep nothing, as their users want it, and throw at the mere look.
 *
 * @template T
 * @param {() => T} act
 * @returns {T | undefined}
 */
function ifAllowed(act) {
  try {
    return act();
  } catch {
    return undefined;
  }
}

/** @param {string} text @returns {any} what it says, or null */
function json(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** AbortSignal.any, which not all browsers in use have. */
function either(signal, other) {
  if (!signal) return other;
  const both = new AbortController();
  for (const one of [signal, other]) {
    if (one.aborted) both.abort(one.reason);
    one.addEventListener("abort", () => both.abort(one.reason), { once: true });
  }
  return both.signal;
}

/**
 * Ask a server's status again and again while the page can be seen.
 *
 * @param {Pool} pool
 * @param {(status: PoolStatus | "key" | "limited" | "hidden" | "away") => void} onStatus
 * @param {number} period milliseconds
 * @returns {() => void} asks at once, out of turn
 */
export function watch(pool, onStatus, period) {
  let timer = 0;
  let latest = 0;
  async function ask() {
    if (document.hidden) return;
    clearTimeout(timer);
    const mine = ++latest;
    const status = await pool.status();
    if (mine !== latest) return; // an answer to what was asked with another key
    onStatus(status);
    // Without a key there is nothing to learn; whoever has one then asks at once.
    if (mine !== latest || status === "key") return;
    timer = setTimeout(ask, status === "limited" ? RESPITE : period);
  }
  document.addEventListener("visibilitychange", ask);
  ask();
  return ask;
}
