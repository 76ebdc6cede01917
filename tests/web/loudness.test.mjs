import assert from "node:assert/strict";
import { test } from "node:test";

import { Loudness } from "../../voicepool/web/loudness.js";

/** Hears these levels, a piece of 20 ms each; the number of pieces until the last loud one's end. */
function loudUntil(...levels) {
  const loudness = new Loudness();
  levels.forEach((level, i) => loudness.hear(level, i + 1));
  return loudness.until;
}

test("silence is never loud", () => {
  assert.ok(Number.isNaN(loudUntil(0, 0, 0)));
});

test("speech ends where it falls far below what it was, whatever the microphone's gain", () => {
  for (const gain of [1, 0.01]) {
    const levels = [0.002, 0.3, 0.05, 0.2, 0.01, 0.003, 0].map((level) => level * gain);
    assert.equal(loudUntil(...levels), 4);
  }
});

test("who speaks softly after a shout is heard again", () => {
  const quiet = Array(3000).fill(0.02);
  assert.equal(loudUntil(0.5, ...quiet), 3001);
});
