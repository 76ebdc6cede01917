// What the conversations share: sound, waiting, and telling the test what happened.

import { readFileSync } from 'node:fs';

const DEADLINE_MS = 30_000;
const PIECE_BYTES = 1_920; // 40 ms of 24 kHz, 16 bits, mono

/** Print a fact for the test that runs this script, as a line of JSON. */
export function tell(step, fields = {}) {
  console.log(JSON.stringify({ step, ...fields }));
}

/** Print an event of the server for the test to validate. */
export function record(event) {
  console.log(JSON.stringify({ event }));
}

/** The sound of a WAV file (24 kHz, 16 bits, mono) in pieces as a client sends them. */
export function pieces(path) {
  const file = readFileSync(path);
  const sound = file.subarray(file.indexOf('data') + 8);
  const count = Math.ceil(sound.length / PIECE_BYTES);
  return Array.from({ length: count }, (_, at) =>
    sound.subarray(at * PIECE_BYTES, (at + 1) * PIECE_BYTES),
  );
}

/** Listen for so long, as a caller would: nothing can be heard of a reply before its time. */
export async function listen(seconds) {
  await new Promise((resolve) => setTimeout(resolve, seconds * 1_000));
}

/** What came, in order, to be awaited: each `until` reads on from where the one before stopped. */
export class Events {
  #seen = [];
  #read = 0;
  #begun = 0;
  #news = () => {};

  push(event) {
    this.#seen.push(event);
    this.#news();
  }

  /** The next event of this type that is `wanted`; those before it are passed over. */
  async until(type, wanted = () => true) {
    const deadline = setTimeout(() => {
      throw new Error(`no ${type} came; the last was ${this.#seen.at(-1)?.type}`);
    }, DEADLINE_MS);
    for (;;) {
      while (this.#read < this.#seen.length) {
        const event = this.#seen[this.#read++];
        if (event.type === type && wanted(event)) {
          clearTimeout(deadline);
          return event;
        }
      }
      await new Promise((resolve) => (this.#news = resolve));
    }
  }

  /** As `until`, where it may have come already, since the step began. */
  async ever(type, wanted = () => true) {
    return this.all(type).find(wanted) ?? (await this.until(type, wanted));
  }

  /** All events of this type since the step began, also those that were passed over. */
  all(type) {
    return this.#seen.slice(this.#begun).filter((event) => event.type === type);
  }

  /** A new step of the conversation begins. */
  begin() {
    this.#begun = this.#read = this.#seen.length;
  }
}
