/** The microphone and the loudspeaker of one call. Knows no protocol and no page. */

/** Why there is no sound: no microphone, or ("away") no server to load the worklets from. */
export class SoundError extends Error {
  /** @param {"insecure" | "denied" | "absent" | "busy" | "away"} kind @param {unknown} [cause] */
  constructor(kind, cause) {
    super(kind, { cause });
    this.kind = kind;
  }
}

const WORKLETS = ["capture-worklet.js", "playback-worklet.js"];
const KINDS = {
  NotAllowedError: "denied",
  SecurityError: "denied",
  NotFoundError: "absent",
  OverconstrainedError: "absent",
};

/** Milliseconds in which sound that the device has stopped may go on before the user is told. */
const PATIENCE = 1000;

/** Echo cancellation keeps the reply out of the microphone, so that it does not interrupt itself. */
const CONSTRAINTS = {
  audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
};

/**
 * Events: "captured" {pcm, level, time}, "audible" and "ended" {item, ms, time}, "level" {level},
 * "lost" (the microphone was taken away), "halted" {halted} (the device has stopped all sound, as for a
 * telephone call, and it goes on only when the user does something; or it has gone on). Times are
 * seconds of the audio context's clock, which the microphone and the loudspeaker share.
 */
export class Sound extends EventTarget {
  /** @type {AudioContext} */
  #context;
  /** @type {MediaStream | undefined} */
  #stream;
  /** @type {AudioWorkletNode} */
  #capture;
  /** @type {AudioWorkletNode} */
  #playback;
  #muted = false;
  #closed = false;
  #halted = false;
  /** What is listened to for this call only. */
  #listening = new AbortController();
  #clears = 0;
  /** @type {Map<number, (dropped: import("./playqueue.js").Played[]) => void>} */
  #clearing = new Map();

  /**
   * Take the microphone, if wanted, and the loudspeaker. To be called from a click or a key press,
   * or the browser keeps the sound off.
   *
   * @param {{microphone: boolean}} wanted
   * @throws {SoundError}
   */
  async open({ microphone }) {
    // Browsers have neither getUserMedia nor AudioWorklet on a page that came over plain http from
    // another host.
    if (!window.isSecureContext) throw new SoundError("insecure");
    this.#context = new AudioContext({ latencyHint: "interactive" });
    const resumed = this.#context.resume();
    this.#keepGoing();
    if (microphone) this.#stream = await takeMicrophone();
    if (!this.#closed) await Promise.all([resumed, ...WORKLETS.map((name) => this.#load(name))]);
    // The user may have changed their mind while the browser asked them for the microphone.
    if (this.#closed) this.close();
    else this.#connect();
  }

  /** Whether there is a microphone to mute. */
  get hasMicrophone() {
    return this.#stream !== undefined;
  }

  get muted() {
    return this.#muted;
  }

  /** What is muted is silence to the server, which keeps its clock. */
  set muted(muted) {
    this.#muted = muted;
    for (const track of this.#stream?.getAudioTracks() ?? []) track.enabled = !muted;
  }

  /** Seconds from what the playback has put out to what the listener hears, as far as is known. */
  get outputLatency() {
    return this.#context.outputLatency || this.#context.baseLatency || 0;
  }

  /** Begin to deliver "captured" events. */
  start() {
    this.#capture.port.postMessage({ on: true });
  }

  /** @param {string} item @param {Int16Array} pcm its next sound */
  play(item, pcm) {
    this.#playback.port.postMessage({ item, pcm }, [pcm.buffer]);
  }

  /** @param {string} item it has no more sound */
  end(item) {
    this.#playback.port.postMessage({ end: item });
  }

  /**
   * Stop playing, at once.
   * @returns {Promise<import("./playqueue.js").Played[]>} what was not played to its end
   */
  stop() {
    const clear = ++this.#clears;
    this.#playback.port.postMessage({ clear });
    return new Promise((resolve) => this.#clearing.set(clear, resolve));
  }

  /** Give everything back. Safe at any time. */
  close() {
    this.#closed = true;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    for (const node of [this.#capture, this.#playback]) node?.port.postMessage({ close: true });
    if (this.#context && this.#context.state !== "closed") this.#context.close();
    this.#listening.abort();
  }

  /** Some devices let sound go on only when the user does something. */
  #keepGoing() {
    const { signal } = this.#listening;
    const goOn = () => {
      if (this.#context.state !== "running") this.#context.resume().catch(() => {});
    };
    for (const sign of ["pointerup", "keydown", "visibilitychange"]) {
      document.addEventListener(sign, goOn, { capture: true, signal });
    }
    let timer = 0;
    const onChange = () => {
      goOn();
      clearTimeout(timer);
      if (this.#context.state === "running") this.#tellHalted(false);
      else timer = setTimeout(() => this.#tellHalted(true), PATIENCE);
    };
    this.#context.addEventListener("statechange", onChange, { signal });
  }

  #tellHalted(halted) {
    if (halted === this.#halted) return;
    this.#halted = halted;
    this.#tell("halted", { halted });
  }

  async #load(name) {
    try {
      await this.#context.audioWorklet.addModule(new URL(name, import.meta.url));
    } catch (error) {
      throw new SoundError("away", error);
    }
  }

  #connect() {
    const context = this.#context;
    this.#capture = new AudioWorkletNode(context, "voicepool-capture");
    this.#playback = new AudioWorkletNode(context, "voicepool-playback", { numberOfInputs: 0 });
    this.#capture.port.onmessage = ({ data }) => this.#tell("captured", data);
    this.#playback.port.onmessage = ({ data }) => this.#onPlayback(data);
    this.#playback.connect(context.destination);
    // It puts out silence; only what leads to the loudspeaker is sure to run in all browsers.
    this.#capture.connect(context.destination);
    if (!this.#stream) return;
    context.createMediaStreamSource(this.#stream).connect(this.#capture);
    for (const track of this.#stream.getAudioTracks()) {
      track.addEventListener("ended", () => this.#tell("lost", {}));
    }
  }

  #onPlayback(data) {
    if (data.what === "cleared") {
      this.#clearing.get(data.clear)?.(data.dropped);
      this.#clearing.delete(data.clear);
    } else {
      this.#tell(data.what ?? "level", data);
    }
  }

  #tell(type, detail) {
    // What the audio thread had told before it heard of the end.
    if (this.#closed) return;
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

async function takeMicrophone() {
  try {
    return await navigator.mediaDevices.getUserMedia(CONSTRAINTS);
  } catch (error) {
    throw new SoundError(KINDS[error?.name] ?? "busy", error);
  }
}
