import assert from "node:assert/strict";
import { test } from "node:test";

import { PlayQueue } from "../../voicepool/web/playqueue.js";

const RATE = 24000;
const BLOCK = 128;
const sound = (ms, value = 0.5) => new Float32Array((ms * RATE) / 1000).fill(value);

/** Render so many blocks; what came out, and what was told, with offsets from the beginning. */
function render(queue, blocks) {
  const out = new Float32Array(blocks * BLOCK);
  const told = [];
  for (let block = 0; block < blocks; block++) {
    const at = block * BLOCK;
    for (const each of queue.render(out.subarray(at, at + BLOCK))) {
      told.push({ ...each, offset: at + each.offset });
    }
  }
  return { out, told };
}

const blocks = (ms) => Math.ceil((ms * RATE) / 1000 / BLOCK);

for (const rate of [24000, 44100, 48000]) {
  test(`at ${rate} Hz each reply is played whole, in order, and counted to the sample`, () => {
    const queue = new PlayQueue(rate);
    queue.push("a", sound(60));
    queue.push("b", sound(40));
    queue.push("a", sound(40));
    queue.end("a");
    queue.end("b");
    const { out, told } = render(queue, Math.ceil((0.15 * rate) / BLOCK));
    const ended = told.filter(({ what }) => what === "ended");
    assert.deepEqual(ended.map(({ item, ms }) => [item, Math.round(ms * 10) / 10]), [["a", 100], ["b", 40]]);
    assert.equal(ended[0].offset, 0.1 * rate);
    const loud = out.filter((x) => x > 0.4).length;
    assert.ok(Math.abs(loud - 0.14 * rate) < 0.004 * rate, `${loud}`);
    assert.ok(queue.empty);
  });
}

test("the first sound is told apart from the silence before it", () => {
  const queue = new PlayQueue(RATE);
  queue.push("a", sound(50, 0.001));
  queue.push("a", sound(50));
  const { told } = render(queue, blocks(100));
  assert.deepEqual(told, [{ what: "audible", item: "a", offset: 1200, ms: 50 }]);
});

test("a reply whose next piece is late goes on when it comes", () => {
  const queue = new PlayQueue(RATE);
  queue.push("a", sound(20));
  const { out } = render(queue, blocks(100));
  assert.equal(out.filter((x) => x !== 0).length, 480);
  assert.ok(!queue.empty);
  queue.push("a", sound(20));
  queue.end("a");
  const { told } = render(queue, blocks(40));
  assert.deepEqual(told.map(({ what, ms }) => [what, ms]), [["ended", 40]]);
});

test("what is cleared says how much was heard, fades, and is silent then", () => {
  const queue = new PlayQueue(RATE);
  queue.push("a", sound(1000));
  queue.push("b", sound(1000));
  render(queue, 100);
  const [a, b] = queue.clear();
  const fade = 5;
  assert.deepEqual([a, b], [
    { item: "a", ms: (100 * BLOCK * 1000) / RATE + fade },
    { item: "b", ms: 0 },
  ]);
  assert.ok(!queue.empty);
  const { out, told } = render(queue, 10);
  const faded = (fade * RATE) / 1000;
  for (let i = 1; i < faded; i++) assert.ok(out[i] < out[i - 1] && out[i] < 0.5);
  assert.ok(out.subarray(faded).every((x) => x === 0));
  assert.deepEqual(told, []);
  assert.ok(queue.empty);
});

test("to clear nothing is nothing", () => {
  const queue = new PlayQueue(RATE);
  assert.deepEqual(queue.clear(), []);
  queue.end("unknown");
  assert.ok(queue.empty);
});

test("what waits is bounded, and there is room again when it has been played", () => {
  const queue = new PlayQueue(RATE);
  const minute = new Float32Array(60 * RATE);
  for (let i = 0; i < 20; i++) queue.push("a", minute);
  queue.end("a");
  const told = queue.render(new Float32Array(16 * 60 * RATE));
  assert.equal(told[0].ms, 15 * 60 * 1000);
  queue.push("b", minute);
  queue.end("b");
  assert.equal(queue.render(new Float32Array(61 * RATE))[0].ms, 60 * 1000);
});
