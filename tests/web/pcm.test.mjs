import assert from "node:assert/strict";
import { test } from "node:test";

import { RATE, decode, encode, level, toFloat32, toInt16 } from "../../voicepool/web/pcm.js";

const every = Int16Array.from({ length: 65536 }, (_, i) => i - 32768);

test("every sample survives the way to the wire and back", () => {
  assert.deepEqual(decode(encode(every)), every);
  assert.deepEqual(toInt16(toFloat32(every)), every);
});

test("the wire is little-endian base64", () => {
  assert.equal(encode(Int16Array.of(1, -2)), Buffer.from([1, 0, 0xfe, 0xff]).toString("base64"));
  assert.equal(encode(new Int16Array(0)), "");
});

test("only the samples of a view are sent", () => {
  assert.deepEqual(decode(encode(every.subarray(100, 103))), every.slice(100, 103));
});

test("half a sample is dropped", () => {
  assert.deepEqual(decode(Buffer.from([1, 0, 7]).toString("base64")), Int16Array.of(1));
});

test("what is too loud is clipped, not wrapped", () => {
  assert.deepEqual(toInt16(Float32Array.of(2, 1, -1, -2)), Int16Array.of(32767, 32767, -32768, -32768));
});

test("the level is the root mean square", () => {
  const tone = Float32Array.from({ length: RATE }, (_, i) => Math.sin((2 * Math.PI * 100 * i) / RATE));
  assert.ok(Math.abs(level(tone) - Math.SQRT1_2) < 1e-3);
  assert.equal(level(new Float32Array(0)), 0);
});
