/** One WebSocket that speaks /v1/realtime. Knows no sound and no page. */

import { encode } from "./pcm.js";

/** What may wait to be sent before the network counts as too slow for a call: about 15 s of sound. */
const BACKLOG = 1 << 20;
/** Milliseconds that a server may hold the caller before it lets them in. */
const PATIENCE = 60_000;

/** The connection was refused, or broke before it was open; browsers do not tell why. */
export class Refused extends Error {}

/**
 * Whether a browser can send this key: as a subprotocol, which is a token (RFC 9110, 5.6.2).
 * @param {string} key
 */
export const sendable = (key) => /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(key);

/**
 * Events: "event" (a server event of the protocol), "closed" {code, reason}.
 */
export class Session extends EventTarget {
  #socket;

  /** @param {WebSocket} socket that is open */
  constructor(socket) {
    super();
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#tell("event", JSON.parse(data));
    socket.onclose = ({ code, reason }) => this.#tell("closed", { code, reason });
  }

  /**
   * @param {URL} url
   * @param {string} key a sendable one; "" where none is needed
   * @param {AbortSignal} signal
   * @returns {Promise<Session>}
   * @throws {Refused | DOMException} the last where `signal` was aborted
   */
  static open(url, key, signal) {
    signal.throwIfAborted();
    // A page cannot set headers: the key is one more subprotocol, which the server never selects.
    const protocols = key ? ["realtime", `openai-insecure-api-key.${key}`] : ["realtime"];
    const socket = new WebSocket(url, protocols);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => socket.close(), PATIENCE);
      const settle = (act) => () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", abort);
        act();
      };
      const abort = settle(() => {
        socket.onclose = null;
        socket.close();
        reject(signal.reason);
      });
      signal.addEventListener("abort", abort);
      socket.onopen = settle(() => resolve(new Session(socket)));
      socket.onclose = settle(() => reject(new Refused()));
    });
  }

  /** Say what the call shall be like; the server answers with session.updated. */
  configure() {
    this.send({
      type: "session.update",
      session: {
        type: "realtime",
        output_modalities: ["audio"],
        audio: {
          input: {
            // "low" brings the words while they are spoken. Any model name will do.
            transcription: { model: "any", delay: "low" },
            // Whole sentences are answered sooner, and who thinks in mid-sentence is waited for.
            turn_detection: {
              type: "semantic_vad",
              create_response: true,
              interrupt_response: true,
            },
          },
        },
      },
    });
  }

  /** @param {Int16Array} pcm */
  append(pcm) {
    this.send({ type: "input_audio_buffer.append", audio: encode(pcm) });
  }

  /** @param {string} text what the caller typed */
  write(text) {
    const content = [{ type: "input_text", text }];
    this.send({ type: "conversation.item.create", item: { type: "message", role: "user", content } });
  }

  /** Ask for a response. */
  respond() {
    this.send({ type: "response.create" });
  }

  /** End the active response. */
  cancel() {
    this.send({ type: "response.cancel" });
  }

  /**
   * Say how much of a reply was heard, and ask for the words that are left of it.
   * @param {string} item
   * @param {number} ms
   */
  truncate(item, ms) {
    const type = "conversation.item.truncate";
    this.send({ type, item_id: item, content_index: 0, audio_end_ms: Math.floor(ms) });
    this.send({ type: "conversation.item.retrieve", item_id: item });
  }

  /** @param {object} event a client event; nothing is sent any more once the call is over */
  send(event) {
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    if (this.#socket.bufferedAmount > BACKLOG) this.#giveUp();
    else this.#socket.send(JSON.stringify(event));
  }

  hangUp() {
    this.#socket.close(1000);
  }

  /** At once: the closing handshake has to wait behind all that could not be sent. */
  #giveUp() {
    const end = { code: 4000, reason: "the network is too slow" };
    this.#socket.onclose = null;
    this.#socket.close(end.code, end.reason);
    this.#tell("closed", end);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
