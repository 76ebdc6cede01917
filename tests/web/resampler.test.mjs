import assert from "node:assert/strict";
import { test } from "node:test";

import { Resampler } from "../../voicepool/web/resampler.js";

const PAIRS = [44100, 48000, 16000, 22050, 96000, 24000].flatMap((rate) => [
  [rate, 24000],
  [24000, rate],
]);

const tone = (rate, hertz, count) =>
  Float32Array.from({ length: count }, (_, i) => 0.5 * Math.sin((2 * Math.PI * hertz * i) / rate));

/** All that comes out when the input comes in pieces of the sizes that `next` gives. */
function resample(input, from, to, next = () => input.length) {
  const resampler = new Resampler(from, to);
  const out = new Float32Array(Math.ceil((input.length * to) / from) + 10);
  let written = 0;
  for (let at = 0; at < input.length; ) {
    const size = next();
    resampler.push(input.subarray(at, at + size));
    written += resampler.read(out, written, written + Math.ceil((size * to) / from) + 1);
    at += size;
  }
  resampler.finish();
  written += resampler.read(out, written);
  return out.subarray(0, written);
}

const rms = (samples) => Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
const decibels = (ratio) => 20 * Math.log10(ratio);

for (const [from, to] of PAIRS) {
  const nyquist = Math.min(from, to) / 2;

  test(`${from} to ${to}: a tone keeps its place, its height and its level`, () => {
    for (const hertz of [100, 1000, 0.75 * nyquist]) {
      const out = resample(tone(from, hertz, from), from, to);
      const wanted = tone(to, hertz, out.length);
      // Away from the ends, where the tone begins and stops at once.
      const middle = [Math.round(0.1 * to), Math.round(0.9 * to)];
      const wrong = out.map((x, i) => x - wanted[i]).subarray(...middle);
      assert.ok(decibels(rms(wrong) / rms(wanted)) < -70, `${hertz} Hz: ${rms(wrong)}`);
    }
  });

  test(`${from} to ${to}: what the slower rate cannot hold is gone`, () => {
    if (from <= to) return;
    for (const hertz of [1.05 * nyquist, 1.4 * nyquist]) {
      if (hertz >= from / 2) continue;
      const out = resample(tone(from, hertz, from), from, to).subarray(0.1 * to, 0.9 * to);
      assert.ok(decibels(rms(out) / rms(tone(from, hertz, from))) < -70, `${hertz} Hz`);
    }
  });

  test(`${from} to ${to}: it does not matter how the input is cut`, () => {
    const input = tone(from, 440, from / 4);
    const whole = resample(input, from, to);
    let seed = 1;
    const odd = () => 1 + ((seed = (seed * 48271) % 2147483647) % 700);
    for (const next of [() => 1, () => 128, odd]) {
      assert.deepEqual(resample(input, from, to, next), whole);
    }
  });

  test(`${from} to ${to}: as long as it was, to the sample, and a constant stays one`, () => {
    for (const count of [0, 1, 100, 12345]) {
      const out = resample(new Float32Array(count).fill(0.25), from, to);
      assert.equal(out.length, Math.ceil((count * to) / from));
      if (count < 12345) continue;
      for (const x of out.subarray(200, -200)) assert.ok(Math.abs(x - 0.25) < 1e-6);
    }
  });
}

test("the same rate is the same sound", () => {
  const input = tone(24000, 440, 1000);
  assert.deepEqual(resample(input, 24000, 24000), input);
});

test("an hour does not drift, and memory does not grow", () => {
  const resampler = new Resampler(44100, 24000);
  const silence = new Float32Array(44100);
  const out = new Float32Array(24100);
  let written = 0;
  for (let second = 0; second < 120; second++) {
    resampler.push(silence);
    written += resampler.read(out);
  }
  resampler.finish();
  written += resampler.read(out);
  assert.equal(written, 120 * 24000);
});
