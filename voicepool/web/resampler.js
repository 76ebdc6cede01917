/**
 * From one sample rate to another, band-limited, in pieces of any size. Pure.
 *
 * A polyphase filter (Crochiere and Rabiner, Multirate Digital Signal Processing, 1983): a sinc
 * under a Kaiser window, tabulated for each phase that an output sample can have between two input
 * samples. Output sample n is the input at time n / to exactly: the filter looks ahead, so nothing
 * is delayed against its place in the sound, and positions are integers, so nothing drifts.
 */

/** Zero crossings of the sinc on either side, at the lower of the two rates. */
const HALF_WIDTH = 24;
/** The Kaiser window's shape: 80 dB of attenuation. */
const BETA = 7.86;
/** The cut-off, in parts of the lower rate's Nyquist frequency, so that the stop band begins there. */
const CUTOFF = 0.9;

export class Resampler {
  #phases;
  #step;
  #half;
  #taps;
  /** All phases' filters in a row. */
  #table;
  #input = new Float32Array(4096);
  /** How much of #input is filled, and where the filter of the next output sample begins there. */
  #filled;
  #first = 0;
  #phase = 0;
  /** Output samples that may still be read once the end of the input is known. */
  #left = Infinity;
  #pushed = 0;
  #read = 0;

  /**
   * @param {number} from samples per second that go in
   * @param {number} to samples per second that come out
   */
  constructor(from, to) {
    const divisor = gcd(from, to);
    this.#phases = to / divisor;
    this.#step = from / divisor;
    const scale = Math.max(1, from / to);
    const same = from === to; // then nothing is to be filtered
    this.#half = same ? 1 : Math.ceil(HALF_WIDTH * scale);
    this.#taps = same ? 1 : 2 * this.#half;
    this.#table = same ? Float32Array.of(1) : filters(this.#phases, this.#half, scale);
    this.#filled = this.#half - 1; // silence before the first sample
  }

  /** @param {Float32Array} samples the next ones of the input */
  push(samples) {
    this.#reserve(samples.length);
    this.#input.set(samples, this.#filled);
    this.#filled += samples.length;
    this.#pushed += samples.length;
  }

  /** No more input: what is left can be read to its end. */
  finish() {
    if (this.#left !== Infinity) return;
    this.#left = Math.ceil((this.#pushed * this.#phases) / this.#step) - this.#read;
    this.#reserve(this.#half);
    this.#input.fill(0, this.#filled, this.#filled + this.#half);
    this.#filled += this.#half;
  }

  /**
   * Write the next output samples to `out[from]` up to `out[to - 1]`, or fewer.
   *
   * @param {Float32Array} out
   * @param {number} [from]
   * @param {number} [to]
   * @returns {number} how many were written
   */
  read(out, from = 0, to = out.length) {
    const input = this.#input;
    const table = this.#table;
    const taps = this.#taps;
    const end = Math.min(to, from + this.#left);
    let at = from;
    for (; at < end && this.#first + taps <= this.#filled; at++) {
      let sum = 0;
      for (let k = 0, h = this.#phase * taps, x = this.#first; k < taps; k++, h++, x++) {
        sum += table[h] * input[x];
      }
      out[at] = sum;
      this.#phase += this.#step;
      this.#first += Math.floor(this.#phase / this.#phases);
      this.#phase %= this.#phases;
    }
    this.#read += at - from;
    this.#left -= at - from;
    return at - from;
  }

  /** Make room for `count` more samples: move what is still needed to the front, or grow. */
  #reserve(count) {
    if (this.#filled + count <= this.#input.length) return;
    const begin = Math.min(this.#first, this.#filled);
    const kept = this.#input.subarray(begin, this.#filled);
    const needed = kept.length + count;
    if (needed > this.#input.length) {
      const grown = new Float32Array(Math.max(needed, 2 * this.#input.length));
      grown.set(kept);
      this.#input = grown;
    } else {
      this.#input.copyWithin(0, begin, this.#filled);
    }
    this.#first -= begin;
    this.#filled -= begin;
  }
}

/**
 * @param {number} phases
 * @param {number} half taps on either side
 * @param {number} scale how much wider the filter is than at equal rates
 */
function filters(phases, half, scale) {
  const taps = 2 * half;
  const table = new Float32Array(phases * taps);
  const window = bessel(BETA);
  for (let phase = 0; phase < phases; phase++) {
    const filter = table.subarray(phase * taps, (phase + 1) * taps);
    let sum = 0;
    for (let k = 0; k < taps; k++) {
      const t = (k - half + 1 - phase / phases) / scale;
      const edge = t / HALF_WIDTH;
      const shape = Math.abs(edge) < 1 ? bessel(BETA * Math.sqrt(1 - edge * edge)) / window : 0;
      filter[k] = sinc(CUTOFF * t) * shape;
      sum += filter[k];
    }
    for (let k = 0; k < taps; k++) filter[k] /= sum; // so that a constant stays what it is
  }
  return table;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

/** The modified Bessel function of the first kind and order 0, by its series. */
function bessel(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

function gcd(a, b) {
  return b === 0 ? a : gcd(b, a % b);
}
