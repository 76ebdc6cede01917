/** Until when somebody has spoken, by how loud it was. Pure. */

/** What is loud: down to 20 dB below the loudest of late. */
const SHARE = 0.1;
/** What is left of the loudest after a piece of 20 ms: half after 14 s. */
const DECAY = 0.999;

export class Loudness {
  #loudest = 0;
  #until = NaN;

  /** The end of the last loud piece; NaN where there was none. */
  get until() {
    return this.#until;
  }

  /**
   * @param {number} level of a piece of 20 ms, from 0 to 1
   * @param {number} end its end, by any clock
   */
  hear(level, end) {
    this.#loudest = Math.max(level, this.#loudest * DECAY);
    if (level > SHARE * this.#loudest) this.#until = end;
  }
}
