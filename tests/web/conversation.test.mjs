import assert from "node:assert/strict";
import { test } from "node:test";

import { Conversation } from "../../voicepool/web/conversation.js";
import { summary } from "../../voicepool/web/pool.js";

function hearing(...events) {
  const changes = [];
  const conversation = new Conversation(
    (entry) => changes.push(entry),
    (id) => changes.push(id),
  );
  for (const event of events) conversation.handle(event);
  const lines = () => conversation.entries.map(({ side, text, final }) => [side, text, final]);
  return { conversation, changes, lines };
}

const INPUT = "conversation.item.input_audio_transcription";
const OUTPUT = "response.output_audio_transcript";
const spoken = [
  { type: "input_audio_buffer.speech_started", item_id: "u" },
  { type: `${INPUT}.delta`, item_id: "u", delta: "hel" },
  { type: `${INPUT}.delta`, item_id: "u", delta: "lo" },
];
const reply = [
  { type: `${OUTPUT}.delta`, item_id: "a", delta: "Good " },
  { type: `${OUTPUT}.delta`, item_id: "a", delta: "day." },
];

test("words grow, and the whole transcript has the last word", () => {
  const { conversation, lines } = hearing(...spoken);
  assert.deepEqual(lines(), [["you", "hello", false]]);
  conversation.handle({ type: `${INPUT}.completed`, item_id: "u", transcript: "Hello." });
  assert.deepEqual(lines(), [["you", "Hello.", true]]);
});

test("a noise that was no speech leaves no line", () => {
  const { lines, changes } = hearing(spoken[0], { type: `${INPUT}.completed`, item_id: "u", transcript: "" });
  assert.deepEqual(lines(), []);
  assert.equal(changes.at(-1), "u");
});

test("the transcript may come after the reply has begun, and keeps its place", () => {
  const { lines } = hearing(...spoken, ...reply, { type: `${INPUT}.completed`, item_id: "u", transcript: "Hi." });
  assert.deepEqual(lines(), [["you", "Hi.", true], ["voice", "Good day.", false]]);
});

test("a reply that is cut off shows what was heard of it, and nothing that comes late", () => {
  const { conversation, lines } = hearing(...reply);
  conversation.measure("a", 612);
  conversation.interrupt("a", 340);
  conversation.handle(reply[1]);
  conversation.handle({ type: `${OUTPUT}.done`, item_id: "a", transcript: "Good day. More." });
  assert.deepEqual(lines(), [["voice", "Good day.", true]]);
  const content = [{ type: "output_audio", transcript: "Good" }];
  conversation.handle({ type: "conversation.item.retrieved", item: { id: "a", content } });
  assert.deepEqual(lines(), [["voice", "Good", true]]);
  const [{ heardMs, latencyMs }] = conversation.entries;
  assert.deepEqual([heardMs, latencyMs], [340, 612]);
});

test("a reply of which no word was heard goes", () => {
  const { conversation, lines } = hearing(...reply);
  conversation.interrupt("a", 12);
  const content = [{ type: "output_audio", transcript: "" }];
  conversation.handle({ type: "conversation.item.retrieved", item: { id: "a", content } });
  assert.deepEqual(lines(), []);
});

test("an interruption before the first word makes no line", () => {
  const { conversation, lines } = hearing();
  conversation.interrupt("a", 0);
  assert.deepEqual(lines(), []);
});

test("what is typed is shown when the server has it; other items are not", () => {
  const typed = { id: "t", role: "user", content: [{ type: "input_text", text: "hi" }] };
  const heard = { id: "u", role: "user", content: [{ type: "input_audio", transcript: null }] };
  const { lines } = hearing(
    { type: "conversation.item.added", item: typed },
    { type: "conversation.item.added", item: heard },
    { type: "conversation.item.added", item: { id: "f", type: "function_call" } },
  );
  assert.deepEqual(lines(), [["you", "hi", true]]);
});

test("failures are told, and what happens in passing is not", () => {
  const error = (code) => ({ type: "error", error: { code, message: code } });
  const { lines } = hearing(
    { type: `${INPUT}.failed`, item_id: "u", error: { message: "no ears" } },
    { type: "response.done", response: { status: "failed", status_details: { error: { message: "no tongue" } } } },
    { type: "response.done", response: { status: "incomplete", status_details: { reason: "max_output_tokens" } } },
    { type: "response.done", response: { status: "completed", status_details: null } },
    error("response_cancel_not_active"),
    error("invalid_value"),
    { type: "a.type.of.tomorrow" },
  );
  assert.deepEqual(lines().map(([side, text]) => [side, text.split(": ").at(-1)]), [
    ["note", "no ears"],
    ["note", "no tongue"],
    ["note", "max_output_tokens"],
    ["note", "invalid_value"],
  ]);
});

test("the end of a call leaves no line open", () => {
  const { conversation, lines } = hearing(...spoken, { type: "input_audio_buffer.speech_started", item_id: "v" });
  conversation.end();
  assert.deepEqual(lines(), [["you", "hello", true]]);
});

test("a very long conversation forgets its beginning", () => {
  const { conversation, changes } = hearing();
  for (let i = 0; i < 300; i++) conversation.note(`${i}`);
  assert.equal(conversation.entries.length, 200);
  assert.equal(conversation.entries[0].text, "100");
  assert.equal(changes.filter((change) => typeof change === "string").length, 100);
});

test("the status of the pool in a few numbers", () => {
  const states = { starting: 1, warming: 2, idle: 3, assigned: 1, serving: 1 };
  const pool = { states, callers: 2, waiting: 4, max_connections: 5, draining: false };
  assert.deepEqual(summary({ pool }), {
    warm: 3, busy: 2, coming: 3, waiting: 4, lines: 5, draining: false,
  });
});
