import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, beforeEach, test } from "node:test";

import { Pool, watch } from "../../voicepool/web/pool.js";

const stored = new Map();
globalThis.sessionStorage = {
  getItem: (name) => stored.get(name) ?? null,
  setItem: (name, value) => stored.set(name, value),
  removeItem: (name) => stored.delete(name),
};

const REPORT = {
  pool: { states: { idle: 1 }, callers: 0, waiting: 0, max_connections: 1, draining: false },
};
/** What the server answers next, and what it was asked. */
let answer;
let asked;
const server = createServer((request, response) => {
  asked = request;
  answer(response);
});
const reply = (status, body) => (response) => response.writeHead(status).end(JSON.stringify(body));
let pool;

before(async () => {
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
});
beforeEach(() => {
  stored.clear();
  pool = new Pool(`http://127.0.0.1:${server.address().port}/below/`);
});
after(() => server.close());

test("calls go where the page came from, with TLS where it came with TLS", () => {
  assert.equal(String(new Pool("http://h:8/").callUrl), "ws://h:8/v1/realtime");
  assert.equal(String(new Pool("https://h/a/index.html?x").callUrl), "wss://h/a/v1/realtime");
});

test("readiness", async () => {
  answer = reply(200, {});
  assert.equal(await pool.readiness(), "ready");
  assert.equal(asked.url, "/below/readyz");
  for (const reason of ["starting", "draining", "unavailable"]) {
    answer = reply(503, { status: "not ready", reason });
    assert.equal(await pool.readiness(), reason);
  }
  for (const reason of ["full", "constructor", undefined, 7]) {
    answer = reply(503, { status: "not ready", reason });
    assert.equal(await pool.readiness(), "busy");
  }
});

test("a server that is not there is away", async () => {
  const nowhere = new Pool("http://127.0.0.1:1/");
  assert.equal(await nowhere.readiness(), "away");
  assert.equal(await nowhere.status(), "away");
});

test("the key is sent where there is one, and a 401 asks for one", async () => {
  answer = reply(401, {});
  assert.equal(await pool.status(), "key");
  assert.equal(asked.headers.authorization, undefined);
  pool.key = "a-key";
  answer = reply(200, REPORT);
  assert.equal((await pool.status()).warm, 1);
  assert.equal(asked.headers.authorization, "Bearer a-key");
  pool.key = "";
  assert.deepEqual([...stored], []);
});

test("a browser that keeps nothing for pages only forgets the key with the page", async () => {
  const { sessionStorage } = globalThis;
  const get = () => {
    throw new DOMException("The operation is insecure.", "SecurityError");
  };
  Object.defineProperty(globalThis, "sessionStorage", { configurable: true, get });
  try {
    const forgetful = new Pool(pool.base);
    answer = reply(200, REPORT);
    assert.equal((await forgetful.status()).warm, 1);
    forgetful.key = "a-key";
    await forgetful.status();
    assert.equal(asked.headers.authorization, "Bearer a-key");
    forgetful.key = "";
    assert.equal(forgetful.key, "");
  } finally {
    Object.defineProperty(globalThis, "sessionStorage", { configurable: true, value: sessionStorage });
  }
});

test("a server that is asked too often is not away", async () => {
  answer = reply(429, {});
  assert.equal(await pool.status(), "limited");
});

test("a page that is told that it asks too often takes nothing more of what calls need", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  globalThis.document = { hidden: false, addEventListener() {} };
  const statuses = ["limited", "hidden"];
  const said = [];
  const told = () => new Promise((resolve) => setImmediate(resolve));
  watch({ status: async () => statuses[said.length] }, (status) => said.push(status), 2000);
  await told();
  t.mock.timers.tick(59_999);
  await told();
  assert.deepEqual(said, ["limited"]);
  t.mock.timers.tick(1);
  await told();
  assert.deepEqual(said, ["limited", "hidden"]);
  t.mock.timers.tick(2000);
  await told();
  assert.equal(said.length, 3);
});

test("a balancer that shows no status is not away", async () => {
  answer = reply(404, {});
  assert.equal(await pool.status(), "hidden");
});

/** What others answer in a server's place: proxies, portals, other programs on its port. */
const STRANGE = {
  "a fault": reply(500, REPORT),
  "a proxy that reaches nobody": (response) => response.writeHead(502).end("<html>"),
  "a proxy's own 503": (response) => response.writeHead(503).end("<html>No server"),
  "a portal that asks for a password": (response) => response.end("<html>"),
  "an answer that breaks off": (response) => {
    response.writeHead(200, { "Content-Length": "99" });
    response.write("{", () => response.destroy());
  },
};
for (const [what, strange] of Object.entries(STRANGE)) {
  test(`${what} counts as nobody's answer`, async () => {
    answer = strange;
    assert.equal(await pool.status(), "away");
    assert.equal(await pool.readiness(), "away");
  });
}

test("what is no status counts as none", async () => {
  answer = reply(200, {});
  assert.equal(await pool.status(), "away");
});

test("whoever gives up waits no longer", async () => {
  const giving = new AbortController();
  const arrived = new Promise((resolve) => {
    answer = resolve; // and never reply
  });
  const waiting = pool.readiness(giving.signal);
  const response = await arrived;
  giving.abort(new Error("enough"));
  await assert.rejects(waiting, /enough/);
  response.end();
  await assert.rejects(pool.readiness(giving.signal), /enough/);
});
