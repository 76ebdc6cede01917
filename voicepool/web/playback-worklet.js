/** In the audio thread: plays the replies, stops at once when told to, and counts what was heard. */

import { level, toFloat32 } from "./pcm.js";
import { PlayQueue } from "./playqueue.js";

/** How many blocks there are to a report of the level, about 20 a second. */
const REPORT = 20;

/**
 * Told: {item: string, pcm: Int16Array}, {end: item}, {clear: number}, {close: true}.
 * Tells: {what: "audible" | "ended", item, ms, time}, {level: number},
 * {what: "cleared", clear: number, dropped: Played[]}.
 */
class Playback extends AudioWorkletProcessor {
  #queue = new PlayQueue(sampleRate);
  #open = true;
  #blocks = 0;

  constructor() {
    super();
    this.port.onmessage = ({ data }) => {
      if (data.pcm) this.#queue.push(data.item, toFloat32(data.pcm));
      else if (data.end) this.#queue.end(data.end);
      else if (data.close) this.#open = false;
      else if (data.clear) this.#clear(data.clear);
    };
  }

  #clear(clear) {
    this.port.postMessage({ what: "cleared", clear, dropped: this.#queue.clear() });
    this.port.postMessage({ level: 0 });
  }

  process(_, [output]) {
    if (this.#queue.empty) return this.#open;
    const [first, ...others] = output;
    for (const { what, item, offset, ms } of this.#queue.render(first)) {
      this.port.postMessage({ what, item, ms, time: currentTime + offset / sampleRate });
    }
    for (const channel of others) channel.set(first);
    if (++this.#blocks % REPORT === 0 || this.#queue.empty) {
      this.port.postMessage({ level: this.#queue.empty ? 0 : level(first) });
    }
    return this.#open;
  }
}

registerProcessor("voicepool-playback", Playback);
