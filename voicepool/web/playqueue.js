/**
 * The sound of replies, in the order in which it is played, and how much of each has been. Pure.
 *
 * Sound arrives faster than it plays, so a whole reply may wait here. What a listener has heard is
 * counted in samples that were really put out, never in time that has passed.
 */

import { RATE } from "./pcm.js";
import { Resampler } from "./resampler.js";

/** Seconds of sound that may wait; what is beyond is dropped. */
const LONGEST = 900;
/** What counts as the beginning of sound: -50 dB. */
const AUDIBLE = 0.003;
/** Seconds in which sound that is stopped fades, as a cut would click. */
const FADE = 0.005;

/**
 * @typedef {object} Played
 * @property {string} item the reply's item id
 * @property {number} ms milliseconds of it that were put out
 */

/**
 * @typedef {object} Progress what happened while a block was rendered
 * @property {"audible" | "ended"} what the item's first sound, or its last
 * @property {string} item
 * @property {number} offset samples into the block
 * @property {number} ms milliseconds of the item that were put out by then
 */

export class PlayQueue {
  #rate;
  /** @type {{item: string, sound: Resampler, played: number, audible: boolean, ended: boolean}[]} */
  #replies = [];
  #waiting = 0;
  #fading = new Float32Array(0);

  /** @param {number} rate samples per second that are put out */
  constructor(rate) {
    this.#rate = rate;
  }

  /** Whether there is nothing to play and nothing more to come. */
  get empty() {
    return this.#replies.length === 0 && this.#fading.length === 0;
  }

  /**
   * @param {string} item
   * @param {Float32Array} samples at RATE
   */
  push(item, samples) {
    if (this.#waiting + samples.length > LONGEST * RATE) return;
    this.#waiting += samples.length;
    this.#of(item).sound.push(samples);
  }

  /**
   * There is no more sound of this item.
   * @param {string} item
   */
  end(item) {
    const reply = this.#replies.find((other) => other.item === item);
    if (reply) {
      reply.ended = true;
      reply.sound.finish();
    }
  }

  /**
   * Drop everything, but for a few milliseconds in which it fades.
   * @returns {Played[]} what was dropped, and how much of it will have been heard
   */
  clear() {
    const tail = new Float32Array(Math.round(FADE * this.#rate));
    const [playing] = this.#replies;
    if (playing?.played) {
      const length = playing.sound.read(tail);
      playing.played += length;
      for (let i = 0; i < length; i++) tail[i] *= 1 - (i + 1) / length;
      this.#fading = tail.subarray(0, length);
    }
    const dropped = this.#replies.map(({ item, played }) => ({ item, ms: this.#ms(played) }));
    this.#replies = [];
    this.#waiting = 0;
    return dropped;
  }

  /**
   * Fill a block with what comes next, and with silence where there is nothing.
   * @param {Float32Array} out
   * @returns {Progress[]}
   */
  render(out) {
    out.fill(0);
    const faded = Math.min(out.length, this.#fading.length);
    out.set(this.#fading.subarray(0, faded));
    this.#fading = this.#fading.subarray(faded);
    /** @type {Progress[]} */
    const progress = [];
    let at = faded;
    while (at < out.length && this.#replies.length) {
      const reply = this.#replies[0];
      const count = reply.sound.read(out, at);
      if (!reply.audible) this.#listen(reply, out, at, count, progress);
      reply.played += count;
      this.#waiting = Math.max(0, this.#waiting - (count * RATE) / this.#rate);
      at += count;
      if (at === out.length || !reply.ended) break; // full, or the next piece is not here yet
      const ms = this.#ms(reply.played);
      progress.push({ what: "ended", item: reply.item, offset: at, ms });
      this.#replies.shift();
    }
    return progress;
  }

  #listen(reply, out, at, count, progress) {
    const first = out.subarray(at, at + count).findIndex((x) => Math.abs(x) > AUDIBLE);
    if (first < 0) return;
    reply.audible = true;
    const ms = this.#ms(reply.played + first);
    progress.push({ what: "audible", item: reply.item, offset: at + first, ms });
  }

  #of(item) {
    let reply = this.#replies.find((other) => other.item === item);
    if (!reply) {
      const sound = new Resampler(RATE, this.#rate);
      reply = { item, sound, played: 0, audible: false, ended: false };
      this.#replies.push(reply);
    }
    return reply;
  }

  #ms(samples) {
    return (samples * 1000) / this.#rate;
  }
}
