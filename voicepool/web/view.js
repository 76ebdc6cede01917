/** The page's elements: what they show, and what the user does with them. Decides nothing. */

const BUTTON = {
  idle: "Start talking",
  opening: "Cancel",
  waiting: "Cancel",
  talking: "Hang up",
  ended: "Call again",
};
const ACTIVITY = {
  listening: "I am listening.",
  hearing: "I hear you …",
  thinking: "One moment …",
  speaking: "Speaking. You may interrupt.",
};
const STATE = {
  idle: "Press the button and speak.",
  opening: "Waiting for the microphone …",
  waiting: "Calling …",
  ended: "The call is over.",
};
/** For those who do not see the page; a call that fails is told by the notice. */
const TOLD = { talking: "Connected.", ended: "The call is over." };
const SPEAKER = { you: "You", voice: "Voice" };

/** Dots that are drawn; more would not be counted by anybody. */
const MOST_DOTS = 32;
/** Levels are shown from here to 0 dB. */
const FLOOR_DB = -60;
/** Pixels within which the log counts as not scrolled. */
const NEAR = 40;

export class View {
  #elements = Object.fromEntries(
    [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
  );
  /** @type {Map<string, HTMLElement>} */
  #entries = new Map();
  #levels = { microphone: 0, voice: 0 };
  #drawing = false;
  /** Where the log was scrolled to last; who has scrolled up since is left there. */
  #scrolledTo = 0;
  #state = "idle";

  /**
   * @param {object} on
   * @param {() => void} on.talk
   * @param {() => void} on.escape
   * @param {() => void} on.interrupt
   * @param {() => void} on.mute
   * @param {(text: string) => void} on.say
   * @param {(key: string) => void} on.key
   */
  constructor(on) {
    const { talk, interrupt, mute, announce, log, unloaded } = this.#elements;
    unloaded.remove();
    // The second click of a double one would hang up what the first has begun.
    talk.addEventListener("click", ({ detail }) => detail < 2 && on.talk());
    // So would an Enter that is held down, which clicks again and again.
    talk.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.repeat) event.preventDefault();
    });
    interrupt.addEventListener("click", on.interrupt);
    mute.addEventListener("click", on.mute);
    document.addEventListener("keydown", (event) => {
      // One that is held down would hang up after it has interrupted.
      if (event.key === "Escape" && !event.isComposing && !event.repeat) on.escape();
    });
    this.#onSubmit("say", on.say);
    this.#onSubmit("key", on.key);
    announce.addEventListener("change", () => {
      log.setAttribute("aria-live", announce.checked ? "polite" : "off");
    });
  }

  #onSubmit(name, act) {
    const field = this.#elements[name];
    this.#elements[`${name}-form`].addEventListener("submit", (event) => {
      event.preventDefault();
      const text = field.value.trim();
      field.value = "";
      if (text) act(text);
    });
  }

  /**
   * @param {"idle" | import("./call.js").State} state
   * @param {{microphone?: boolean}} [having]
   */
  showState(state, { microphone = false } = {}) {
    const { call, mute, interrupt, activity } = this.#elements;
    this.#state = state;
    call.dataset.state = state;
    this.#elements["talk-label"].textContent = BUTTON[state];
    this.#show(mute, state === "talking" && microphone);
    this.#show(interrupt, false);
    delete call.dataset.activity;
    if (state in STATE) activity.textContent = STATE[state];
    this.#elements.told.textContent = TOLD[state] ?? "";
    if (state === "ended") this.showLevel("microphone", 0);
    if (state === "ended") this.showLevel("voice", 0);
  }

  /** @param {import("./call.js").Activity} activity @param {boolean} muted */
  showActivity(activity, muted) {
    if (this.#state !== "talking") return;
    const { call, interrupt } = this.#elements;
    call.dataset.activity = activity;
    const deaf = muted && activity === "listening";
    this.#elements.activity.textContent = deaf ? "You are muted." : ACTIVITY[activity];
    this.#show(interrupt, activity === "speaking");
  }

  /** @param {HTMLElement} element @param {boolean} wanted */
  #show(element, wanted) {
    // What vanishes under the keyboard's focus would leave it nowhere.
    if (!wanted && element.contains(document.activeElement)) this.#elements.talk.focus();
    element.hidden = !wanted;
  }

  /** @param {boolean} muted */
  showMuted(muted) {
    this.#elements.mute.setAttribute("aria-pressed", String(muted));
  }

  /**
   * Something that the user has to know; "" when it is over. What is in `ticking` changes all the
   * time and is not for screen readers.
   *
   * @param {string} text
   * @param {{bad?: boolean, ticking?: string}} [how]
   */
  showNotice(text, { bad = false, ticking = "" } = {}) {
    const { notice } = this.#elements;
    notice.classList.toggle("bad", bad);
    notice.setAttribute("role", bad ? "alert" : "status");
    let [said, tick] = notice.children;
    if (said?.textContent !== text || !tick) {
      said = element("p", text);
      tick = element("p", "");
      tick.setAttribute("aria-hidden", "true");
      notice.replaceChildren(...(text ? [said, tick] : []));
    }
    tick.textContent = ticking;
  }

  /** @param {boolean} wanted */
  askForKey(wanted) {
    const { "key-form": form, key, talk } = this.#elements;
    if (form.hidden !== wanted) return;
    this.#show(form, wanted);
    // Keys run out in mid-call, and under the hands of those who type: what they type next is no key.
    const free = [document.body, talk].includes(document.activeElement);
    if (wanted && free && this.#state !== "talking") key.focus();
  }

  /** @param {string} text that was typed and could not be sent */
  giveBack(text) {
    this.#elements.say.value ||= text;
  }

  /** @param {import("./pool.js").PoolStatus | "key" | "away"} status */
  showPool(status) {
    const { dots } = this.#elements;
    const counts = typeof status === "object" ? status : {};
    const drawn = ["busy", "warm", "coming", "waiting"].flatMap((kind) =>
      Array(counts[kind] ?? 0).fill(kind),
    );
    dots.replaceChildren(...drawn.slice(0, MOST_DOTS).map((kind) => dot(kind)));
    this.#elements["pool-text"].textContent = poolText(status);
  }

  /** @param {import("./conversation.js").Entry} entry */
  showEntry(entry) {
    const { log, empty } = this.#elements;
    empty.hidden = true;
    // Where the log has become shorter, or taller on the page, it cannot be scrolled as far any more.
    const end = log.scrollHeight - log.clientHeight;
    const following = log.scrollTop >= Math.min(this.#scrolledTo, end) - NEAR;
    let shown = this.#entries.get(entry.id);
    if (!shown) {
      shown = document.createElement("div");
      shown.append(element("p", ""), element("small", ""));
      shown.firstChild.dir = "auto";
      // Whoever wants no transcripts read out wants to know what went wrong all the same.
      if (entry.side === "note") shown.setAttribute("role", "alert");
      this.#entries.set(entry.id, shown);
      log.append(shown);
    }
    const [text, remark] = shown.children;
    const ready = entry.final && !shown.classList.contains("final");
    shown.className = `entry ${entry.side}${entry.final ? " final" : ""}`;
    // What still grows would be read out with every word; it is announced once it is whole.
    if (entry.final) shown.removeAttribute("aria-hidden");
    else shown.setAttribute("aria-hidden", "true");
    // What is put in again is read out again: only what changes is.
    if (ready || text.lastChild?.data !== entry.text) {
      const speaker = SPEAKER[entry.side];
      text.replaceChildren(...(speaker ? [unseen(`${speaker}: `)] : []), entry.text);
    }
    const remarked = remarks(entry).join(" · ");
    if (remark.textContent !== remarked) remark.textContent = remarked;
    if (following) this.#scrollTo(shown);
  }

  /** Show the end, but not beyond the beginning of what is said now: that is read first. */
  #scrollTo(entry) {
    const { log } = this.#elements;
    log.scrollTop = entry.offsetTop - log.offsetTop;
    this.#scrolledTo = log.scrollTop;
  }

  /** @param {string} id */
  removeEntry(id) {
    const { log } = this.#elements;
    const height = log.scrollHeight;
    this.#entries.get(id)?.remove();
    this.#entries.delete(id);
    // Browsers keep what is read in its place: all of it moves up by the height of what went.
    this.#scrolledTo -= height - log.scrollHeight;
  }

  /** @param {"microphone" | "voice"} whose @param {number} level from 0 to 1 */
  showLevel(whose, level) {
    const decibels = 20 * Math.log10(Math.max(level, 1e-6));
    this.#levels[whose] = Math.max(0, Math.min(1, 1 - decibels / FLOOR_DB));
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => this.#drawLevels());
  }

  #drawLevels() {
    this.#drawing = false;
    const { microphone, voice } = this.#levels;
    const { call, level } = this.#elements;
    level.style.setProperty("--level", microphone.toFixed(3));
    level.setAttribute("aria-valuenow", String(Math.round(microphone * 100)));
    call.style.setProperty("--loud", Math.max(microphone, voice).toFixed(3));
  }
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function unseen(text) {
  const made = element("span", text);
  made.className = "unseen";
  made.dir = "ltr"; // and so it has no say in what the direction is of what follows
  return made;
}

function dot(kind) {
  const made = document.createElement("span");
  made.className = `dot ${kind}`;
  return made;
}

function remarks({ heardMs, latencyMs }) {
  const said = [];
  if (latencyMs !== null) said.push(`after ${(latencyMs / 1000).toFixed(2)} s`);
  if (heardMs !== null) said.push(`interrupted at ${(heardMs / 1000).toFixed(1)} s`);
  return said;
}

function poolText(status) {
  if (status === "away") return "the server does not answer";
  if (status === "hidden") return "";
  if (status === "key") return "the server asks for a key";
  if (status === "limited") return "the server is asked too often from your address";
  if (status.draining) return "the server is shutting down";
  const { warm, busy, coming, waiting } = status;
  const counts = [`${warm} warm`, `${busy} in a call`];
  if (coming) counts.push(`${coming} warming up`);
  if (waiting) counts.push(`${waiting} waiting`);
  return counts.join(" · ");
}
