/** What was said on both sides, as the server's events tell it. Pure: no page, no sound, no clock. */

/** Entries that are kept; older ones are forgotten. */
const LONGEST = 200;

/**
 * @typedef {object} Entry one line of the conversation
 * @property {string} id
 * @property {"you" | "voice" | "note"} side
 * @property {string} text
 * @property {boolean} final whether the text will not change any more
 * @property {number | null} heardMs how much of it was heard before it was interrupted
 * @property {number | null} latencyMs from the end of the caller's speech to its first sound
 */

export class Conversation {
  /** @type {Map<string, Entry>} in the order in which they began */
  #entries = new Map();
  #onChange;
  #onRemove;
  #notes = 0;

  /**
   * @param {(entry: Entry) => void} onChange it is new, or has changed
   * @param {(id: string) => void} onRemove
   */
  constructor(onChange, onRemove) {
    this.#onChange = onChange;
    this.#onRemove = onRemove;
  }

  /** @returns {Entry[]} */
  get entries() {
    return [...this.#entries.values()];
  }

  /**
   * Take one server event; those that say nothing about texts are ignored.
   * @param {any} event
   */
  handle(event) {
    HANDLERS[event.type]?.(this, event);
  }

  /** @param {string} text for the caller to read, said by neither side */
  note(text) {
    this.change(`note-${++this.#notes}`, "note", { text, final: true });
  }

  /**
   * A reply was cut off.
   * @param {string} id
   * @param {number} heardMs
   */
  interrupt(id, heardMs) {
    if (this.#entries.has(id)) this.change(id, "voice", { heardMs, final: true });
  }

  /**
   * A reply is heard.
   * @param {string} id
   * @param {number} latencyMs
   */
  measure(id, latencyMs) {
    this.change(id, "voice", { latencyMs });
  }

  /** The call is over: nothing changes any more, and what never became words goes. */
  end() {
    for (const { id, text, final } of this.entries) {
      if (!text) this.remove(id);
      else if (!final) this.change(id, this.#entries.get(id).side, { final: true });
    }
  }

  /**
   * @param {string} id
   * @param {Entry["side"]} side
   * @param {Partial<Entry>} changes
   */
  change(id, side, changes) {
    const fresh = { id, side, text: "", final: false, heardMs: null, latencyMs: null };
    const entry = { ...fresh, ...this.#entries.get(id), ...changes };
    this.#entries.set(id, entry);
    this.#onChange(entry);
    if (this.#entries.size > LONGEST) this.remove(this.#entries.keys().next().value);
  }

  /** @param {string} id @param {Entry["side"]} side @param {string} delta */
  add(id, side, delta) {
    const entry = this.#entries.get(id);
    // Some servers run ahead with the text of a reply that has been cut off.
    if (!entry?.final) this.change(id, side, { text: (entry?.text ?? "") + delta });
  }

  /** @param {string} id */
  remove(id) {
    if (this.#entries.delete(id)) this.#onRemove(id);
  }

  /** @param {string} id @param {string} text the words of an interrupted reply that were heard */
  cutTo(id, text) {
    if (!text) this.remove(id);
    else if (this.#entries.get(id)?.heardMs != null) this.change(id, "voice", { text });
  }

  /** @param {string} id @param {string} text the whole of a reply */
  complete(id, text) {
    if (!this.#entries.get(id)?.final) this.change(id, "voice", { text, final: true });
  }
}

/** @type {Record<string, (conversation: Conversation, event: any) => void>} */
const HANDLERS = {
  "input_audio_buffer.speech_started": (to, { item_id }) => to.change(item_id, "you", {}),
  "conversation.item.input_audio_transcription.delta": (to, { item_id, delta }) =>
    to.add(item_id, "you", delta ?? ""),
  "conversation.item.input_audio_transcription.completed": (to, { item_id, transcript }) => {
    if (transcript) to.change(item_id, "you", { text: transcript, final: true });
    else to.remove(item_id);
  },
  "conversation.item.input_audio_transcription.failed": (to, { item_id, error }) => {
    to.remove(item_id);
    to.note(`Your words could not be transcribed: ${error.message}`);
  },
  "conversation.item.added": (to, { item }) => {
    const typed = item.role === "user" && item.content?.find((part) => part.type === "input_text");
    if (typed) to.change(item.id, "you", { text: typed.text, final: true });
  },
  "conversation.item.retrieved": (to, { item }) => {
    const part = item.content?.find((one) => one.type === "output_audio");
    if (part) to.cutTo(item.id, part.transcript ?? "");
  },
  "response.output_audio_transcript.delta": (to, { item_id, delta }) =>
    to.add(item_id, "voice", delta),
  "response.output_audio_transcript.done": (to, { item_id, transcript }) =>
    to.complete(item_id, transcript),
  "response.output_text.delta": (to, { item_id, delta }) => to.add(item_id, "voice", delta),
  "response.output_text.done": (to, { item_id, text }) => to.complete(item_id, text),
  "response.done": (to, { response }) => {
    const details = response.status_details;
    if (response.status === "failed") {
      to.note(`There was no reply: ${details?.error?.message ?? "the server does not say why"}`);
    } else if (response.status === "incomplete") {
      to.note(`The reply was cut short: ${details?.reason ?? "the server does not say why"}`);
    }
  },
  // Two turns met; the call asks again.
  error: (to, { error }) => {
    if (!HARMLESS.has(error.code)) to.note(`The server reports: ${error.message}`);
  },
};

/** Errors that can come of two things happening at once, and that the call sees to. */
const HARMLESS = new Set([
  "conversation_already_has_active_response",
  "response_cancel_not_active",
  "session_expired",
]);
