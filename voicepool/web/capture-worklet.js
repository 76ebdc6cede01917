/** In the audio thread: the microphone's sound, mixed to mono, as 20 ms pieces for the wire. */

import { RATE, level, toInt16 } from "./pcm.js";
import { Resampler } from "./resampler.js";

const PIECE = RATE / 50;

/**
 * Told: {on: boolean}, {close: true}.
 * Tells: {pcm: Int16Array, level: number, time: number}, the audio context's time of its beginning.
 */
class Capture extends AudioWorkletProcessor {
  #on = false;
  #open = true;
  #piece = new Float32Array(PIECE);
  #filled = 0;
  #sent = 0;
  #began = 0;
  /** @type {Resampler} */
  #resampler;
  #silence = new Float32Array(128);

  constructor() {
    super();
    this.port.onmessage = ({ data }) => {
      if (data.close) this.#open = false;
      else if (data.on !== this.#on) this.#turn(data.on);
    };
  }

  /** Every time it is turned on, the count of samples begins anew, and with it the call's clock. */
  #turn(on) {
    this.#on = on;
    this.#resampler = new Resampler(sampleRate, RATE);
    this.#filled = 0;
    this.#sent = 0;
    this.#began = 0;
  }

  process([input]) {
    if (!this.#on) return this.#open;
    this.#began ||= currentTime;
    // Without a microphone there is silence, or the server's clock of the call would stand still.
    this.#resampler.push(mono(input) ?? this.#silence);
    for (;;) {
      this.#filled += this.#resampler.read(this.#piece, this.#filled);
      if (this.#filled < PIECE) return this.#open;
      const pcm = toInt16(this.#piece);
      const time = this.#began + this.#sent / RATE;
      this.port.postMessage({ pcm, level: level(this.#piece), time }, [pcm.buffer]);
      this.#sent += PIECE;
      this.#filled = 0;
    }
  }
}

/** @param {Float32Array[]} channels */
function mono(channels) {
  if (channels.length < 2) return channels[0];
  return channels[0].map((_, i) => channels.reduce((sum, one) => sum + one[i], 0) / channels.length);
}

registerProcessor("voicepool-capture", Capture);
