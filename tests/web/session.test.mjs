import assert from "node:assert/strict";
import { test } from "node:test";

import { Session, sendable } from "../../voicepool/web/session.js";

test("keys that are a token can be sent, and no others", () => {
  for (const key of ["abc-123_~.", "!#$%&'*+^`|"]) assert.ok(sendable(key), key);
  for (const key of ["", "a b", "a/b", "a=", 'a"', "a,b", "schl\u00fcssel", "\u043a"]) {
    assert.ok(!sendable(key), key);
  }
});

test("a network that takes nothing ends the call at once, whoever answers the close", () => {
  const closed = [];
  const socket = {
    readyState: 1,
    bufferedAmount: 0,
    sent: [],
    send: (text) => socket.sent.push(text),
    close(code) {
      this.readyState = 2;
      this.code = code;
    },
  };
  globalThis.WebSocket = { OPEN: 1 };
  const session = new Session(socket);
  session.addEventListener("closed", ({ detail }) => closed.push(detail.code));
  session.respond();
  assert.equal(socket.sent.length, 1);
  socket.bufferedAmount = 2 << 20;
  session.respond();
  session.respond();
  assert.deepEqual([closed, socket.code, socket.sent.length], [[4000], 4000, 1]);
  assert.equal(socket.onclose, null);
});
