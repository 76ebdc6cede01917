/**
 * One call, from the click to its end: waits for a line, joins session, sound and conversation, and
 * sees to interruptions. Knows nothing of the page.
 *
 *   state     next
 *   opening   waiting, ended     the microphone is asked for
 *   waiting   talking, ended     for a line: the server is full, or not there
 *   talking   ended
 */

import { Loudness } from "./loudness.js";
import { RATE, decode } from "./pcm.js";
import { Refused, Session } from "./session.js";

/** Seconds between two looks whether a line is free. */
const RETRY = 3;
/** Seconds that a server may be away while a caller waits for it. */
const AWAY = 30;
/** Refusals in a row, with a line free each time, that cannot be for want of one. */
const REFUSALS = 3;

/** @typedef {"opening" | "waiting" | "talking" | "ended"} State */
/** @typedef {"listening" | "hearing" | "thinking" | "speaking"} Activity */

/** Why a call could not be: `reason` is a name for whoever tells the caller. */
export class CallFailed extends Error {
  /** @param {"away" | "key" | "refused"} reason */
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

/**
 * Events: "state" {state}, "activity" {activity}, "waiting" {why, seconds} every second while it
 * waits, "ended" {error} or {code, reason}; neither where the caller hung up.
 */
export class Call extends EventTarget {
  #pool;
  #sound;
  #conversation;
  #abort = new AbortController();
  /** @type {Session | undefined} */
  #session;
  /** @type {State} */
  #state = "opening";
  /** @type {Activity} */
  #activity = "listening";
  /** The response that the server makes; "" while it makes none. */
  #responding = "";
  /** What has to wait until it does not. @type {(() => void)[]} */
  #afterResponse = [];
  /** Replies, and whole responses, that the caller has cut off; what still comes is dropped. */
  #cut = new Set();
  /** Replies whose sound has not been played to its end. */
  #sounding = new Set();
  #loudness = new Loudness();
  /** When the turn that is not answered yet ended, by the audio context's clock. */
  #spokeUntil = NaN;

  /**
   * @param {import("./pool.js").Pool} pool
   * @param {import("./sound.js").Sound} sound
   * @param {import("./conversation.js").Conversation} conversation
   */
  constructor(pool, sound, conversation) {
    super();
    this.#pool = pool;
    this.#sound = sound;
    this.#conversation = conversation;
  }

  get state() {
    return this.#state;
  }

  get activity() {
    return this.#activity;
  }

  /** Begin; "ended" comes in any case. @param {{microphone: boolean}} wanted */
  async start(wanted) {
    try {
      await this.#sound.open(wanted);
      this.#abort.signal.throwIfAborted();
      this.#enter("waiting");
      this.#talk(await this.#line());
    } catch (error) {
      this.#end(this.#abort.signal.aborted ? {} : { error });
    }
  }

  /** End it, whatever it is doing. */
  hangUp() {
    this.#abort.abort();
    if (this.#session) this.#session.hangUp();
    this.#end({});
  }

  /** @param {string} text what the caller typed; it is answered as if it had been said */
  async write(text) {
    await this.interrupt();
    this.#afterwards(() => {
      this.#spokeUntil = NaN;
      this.#session.write(text);
      this.#session.respond();
      this.#act("thinking");
    });
  }

  /** Silence the reply, and have no more of it made. */
  async interrupt() {
    if (this.#responding) {
      this.#session.cancel();
      // Until the server has heard of it, more sound is on its way, and perhaps the first.
      this.#cut.add(this.#responding);
    }
    await this.#silenceReply();
  }

  // -- getting a line

  /** @returns {Promise<Session>} */
  async #line() {
    const { signal } = this.#abort;
    for (let away = 0, refusals = 0; ; ) {
      const readiness = await this.#pool.readiness(signal);
      if (readiness === "ready") {
        try {
          this.#tell("waiting", { why: "ringing", seconds: 0 });
          return await Session.open(this.#pool.callUrl, this.#pool.key, signal);
        } catch (error) {
          if (!(error instanceof Refused)) throw error;
          // It may have become full meanwhile, or be down, or not know the key.
          const status = await this.#pool.status(signal);
          if (status === "key") throw new CallFailed("key");
          // No counts: that was refused as well, and the server has just said that it is ready.
          refusals = typeof status === "string" || status.warm > 0 ? refusals + 1 : 0;
          if (refusals === REFUSALS) throw new CallFailed("refused");
        }
      }
      away = readiness === "away" ? away + RETRY : 0;
      if (away >= AWAY) throw new CallFailed("away");
      await this.#countDown(readiness === "ready" ? "busy" : readiness);
    }
  }

  async #countDown(why) {
    for (let seconds = RETRY; seconds > 0; seconds--) {
      this.#tell("waiting", { why, seconds });
      await pause(1000, this.#abort.signal);
    }
  }

  // -- talking

  #talk(session) {
    this.#session = session;
    session.addEventListener("event", ({ detail }) => this.#onEvent(detail));
    session.addEventListener("closed", ({ detail }) => this.#end(detail));
    this.#sound.addEventListener("captured", ({ detail }) => {
      this.#loudness.hear(detail.level, detail.time + detail.pcm.length / RATE);
      session.append(detail.pcm);
    });
    this.#sound.addEventListener("audible", ({ detail }) => this.#onAudible(detail));
    this.#sound.addEventListener("ended", ({ detail }) => this.#onPlayed(detail.item));
    session.configure();
    this.#enter("talking");
  }

  #onEvent(event) {
    if (this.#state === "ended") return;
    if (this.#isCut(event)) return;
    this.#conversation.handle(event);
    this.#handlers[event.type]?.(event);
  }

  /** Whether the event brings more of what the caller has cut off. */
  #isCut({ type, item_id, response_id }) {
    if (!type.endsWith(".delta")) return false;
    const late = this.#cut.has(response_id) && !this.#cut.has(item_id);
    if (late && type.startsWith("response.output_audio")) this.#cutOff(item_id, 0);
    return this.#cut.has(item_id);
  }

  /** @type {Record<string, (event: any) => void>} */
  #handlers = {
    "session.updated": () => this.#sound.start(),
    "input_audio_buffer.speech_started": () => {
      this.#silenceReply();
      this.#act("hearing");
    },
    "input_audio_buffer.speech_stopped": () => {
      // The event's own time has the silence in it that ended the turn, which is not always as long.
      this.#spokeUntil = this.#loudness.until;
      this.#act("thinking");
    },
    "conversation.item.input_audio_transcription.completed": ({ transcript }) => {
      if (!transcript && !this.#responding && this.#activity === "thinking") this.#rest();
    },
    "response.created": ({ response }) => {
      this.#responding = response.id;
    },
    "response.output_audio.delta": ({ item_id, delta }) => {
      this.#sounding.add(item_id);
      this.#sound.play(item_id, decode(delta));
    },
    "response.output_audio.done": ({ item_id }) => this.#sound.end(item_id),
    "response.done": () => {
      this.#responding = "";
      for (const act of this.#afterResponse.splice(0)) act();
      if (this.#activity === "thinking" && !this.#sounding.size) this.#rest();
    },
    error: ({ error }) => {
      // A turn of the caller's was answered at the moment in which a typed one was sent.
      if (error.code === "conversation_already_has_active_response") {
        this.#afterwards(() => this.#session.respond());
      }
    },
  };

  #onAudible({ item, time }) {
    if (this.#cut.has(item)) return;
    this.#act("speaking");
    const latency = time + this.#sound.outputLatency - this.#spokeUntil;
    // A turn's first reply only: later ones of the same turn answer no speech.
    this.#spokeUntil = NaN;
    if (latency > 0) this.#conversation.measure(item, latency * 1000);
  }

  #onPlayed(item) {
    this.#sounding.delete(item);
    if (!this.#sounding.size && this.#activity === "speaking") this.#rest();
  }

  /** Stop playing, and tell the server how much of each reply was heard. */
  async #silenceReply() {
    if (!this.#sounding.size) return;
    for (const item of this.#sounding) this.#cut.add(item);
    this.#sounding.clear();
    this.#rest();
    const latencyMs = this.#sound.outputLatency * 1000;
    for (const { item, ms } of await this.#sound.stop()) {
      this.#cutOff(item, Math.max(0, ms - latencyMs));
    }
  }

  /** Nothing is heard any more of a reply of which the caller has heard so many milliseconds. */
  #cutOff(item, heard) {
    this.#cut.add(item);
    this.#conversation.interrupt(item, heard);
    const truncate = () => this.#session.truncate(item, heard);
    // Only what is no longer being made can be cut; and then before anything else is answered.
    if (this.#responding) this.#afterResponse.unshift(truncate);
    else truncate();
  }

  /** Do something as soon as no response is being made. */
  #afterwards(act) {
    if (this.#responding) this.#afterResponse.push(act);
    else act();
  }

  #rest() {
    this.#act("listening");
  }

  // -- telling

  /** @param {Activity} activity */
  #act(activity) {
    if (this.#activity === activity) return;
    this.#activity = activity;
    this.#tell("activity", { activity });
  }

  /** @param {State} state */
  #enter(state) {
    this.#state = state;
    this.#tell("state", { state });
  }

  #end(how) {
    if (this.#state === "ended") return;
    this.#sound.close();
    this.#conversation.end();
    this.#enter("ended");
    this.#tell("ended", how);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** @param {number} ms @param {AbortSignal} signal */
function pause(ms, signal) {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        reject(signal.reason);
      },
      { once: true },
    );
  });
}
