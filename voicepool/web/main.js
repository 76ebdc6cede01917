/** Puts the page together: one call at a time, and what the user is told of it. */

import { Call, CallFailed } from "./call.js";
import { Conversation } from "./conversation.js";
import { Pool, watch } from "./pool.js";
import { sendable } from "./session.js";
import { SoundError, Sound } from "./sound.js";
import { View } from "./view.js";

/** Milliseconds between two looks at the pool. */
const STATUS_PERIOD = 2000;

const AWAY = "The server does not answer. Check that it runs, then call again.";
const SOUND = {
  insecure:
    "Browsers give the microphone only to pages that come over https or from this computer. " +
    "Open this page over https, or as http://localhost.",
  denied:
    "The browser does not let this page use the microphone. Allow it beside the address, " +
    "then press the button again; or type below.",
  absent: "No microphone was found. Plug one in and press the button again; or type below.",
  busy: "The microphone cannot be used; perhaps another program has it. You can also type below.",
  away: AWAY,
};
const FAILED = {
  away: AWAY,
  key: "The server does not know this key, or it has expired.",
  refused:
    "The server has free lines, and yet refuses the call. Perhaps too many came from your address: try " +
    "again in a minute. Or the key is not for calls; or a proxy does not pass on Host and Upgrade.",
};
const HALTED =
  "This device has stopped the sound. Touch the page, or press a key, and the call goes on.";
const NO_KEY = "Give the server's key first.";
const UNSENDABLE =
  "Browsers can send only keys of letters, digits and a few signs; this one has others.";
/** By close code; see "Close codes" in docs/protocol.md. */
const CLOSED = {
  1000: "The server has ended the call.",
  1001:
    "The server has ended the call: it shuts down, the call was as long as it may be, or nobody " +
    "has spoken for long.",
  1006: "The connection broke. You can call again.",
  1011: "The server met a fault of its own. You can call again.",
  4000: "The network is too slow for a call.",
};
const WAITING = {
  busy: "All lines are busy. You will be connected as soon as one is free.",
  starting: "The server is starting. You will be connected as soon as it is ready.",
  draining: "The server is shutting down and takes no new calls. Trying again.",
  unavailable: "The server cannot take calls now. Trying again.",
  away: "The server does not answer. Trying again.",
  ringing: "Waiting for a free line …",
};

/** @type {Call | null} */
let call = null;
/** @type {Sound} */
let sound;

const pool = new Pool(document.baseURI);
const view = new View({
  talk: () => (call ? call.hangUp() : begin({ microphone: true })),
  escape: () => (call?.activity === "speaking" ? call.interrupt() : call?.hangUp()),
  interrupt: () => call?.interrupt(),
  mute: () => mute(!sound.muted),
  say,
  key: (key) => {
    if (sendable(key)) {
      pool.key = key;
      view.showNotice("");
      lookAtPool();
    } else {
      view.showNotice(UNSENDABLE, { bad: true });
    }
  },
});
const conversation = new Conversation(
  (entry) => view.showEntry(entry),
  (id) => view.removeEntry(id),
);
const lookAtPool = watch(pool, onStatus, STATUS_PERIOD);

/** @param {{microphone: boolean}} wanted */
function begin(wanted) {
  view.showNotice("");
  sound = new Sound();
  call = new Call(pool, sound, conversation);
  const on = (target, type, act) => target.addEventListener(type, ({ detail }) => act(detail));
  on(call, "state", onState);
  on(call, "activity", ({ activity }) => view.showActivity(activity, sound.muted));
  on(call, "waiting", onWaiting);
  on(call, "ended", onEnded);
  on(sound, "captured", ({ level }) => view.showLevel("microphone", level));
  on(sound, "level", ({ level }) => view.showLevel("voice", level));
  on(sound, "halted", ({ halted }) => view.showNotice(halted ? HALTED : "", { bad: halted }));
  on(sound, "lost", () => conversation.note("The microphone is gone. You can type instead."));
  view.showState("opening");
  return call.start(wanted);
}

/** @param {string} text */
async function say(text) {
  if (!call) begin({ microphone: false });
  const mine = call;
  await connected(mine);
  if (mine.state === "talking") mine.write(text);
  else view.giveBack(text);
}

/** Until the call is, or is over. @param {Call} one */
function connected(one) {
  const settled = () => one.state === "talking" || one.state === "ended";
  return new Promise((resolve) => {
    one.addEventListener("state", () => settled() && resolve());
    if (settled()) resolve();
  });
}

/** @param {boolean} muted */
function mute(muted) {
  sound.muted = muted;
  view.showMuted(muted);
  view.showActivity(call.activity, muted);
}

function onState({ state }) {
  view.showState(state, { microphone: sound.hasMicrophone });
  if (state === "talking") {
    view.showNotice("");
    mute(false);
  }
  lookAtPool();
}

function onWaiting({ why, seconds }) {
  const ticking = seconds ? `Next try in ${seconds} s.` : "";
  view.showNotice(WAITING[why], { ticking, bad: why === "away" });
}

function onEnded({ error, code, reason }) {
  call = null;
  if (error) view.showNotice(explained(error), { bad: true });
  else if (code === undefined) view.showNotice("");
  else view.showNotice(CLOSED[code] ?? `The call has ended (${code} ${reason}).`, { bad: true });
  if (error?.reason === "key") {
    pool.key = "";
    view.askForKey(true);
  }
  lookAtPool();
}

function explained(error) {
  if (error instanceof SoundError) return SOUND[error.kind];
  if (error instanceof CallFailed) {
    return error.reason === "key" && !pool.key ? NO_KEY : FAILED[error.reason];
  }
  console.error(error);
  return "Something went wrong in this page; the browser's console says what.";
}

function onStatus(status) {
  view.showPool(status);
  if (status === "key" && pool.key) {
    pool.key = "";
    view.showNotice(FAILED.key, { bad: true });
  }
  view.askForKey(status === "key");
}
