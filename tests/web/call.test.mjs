import assert from "node:assert/strict";
import { test } from "node:test";

import { Call } from "../../voicepool/web/call.js";
import { Conversation } from "../../voicepool/web/conversation.js";

/** A server whose events the test chooses; `sent` is what it is told. */
class Wire extends EventTarget {
  static OPEN = 1;
  readyState = 1;
  bufferedAmount = 0;
  sent = [];

  constructor() {
    super();
    Wire.last = this;
    queueMicrotask(() => this.onopen());
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  tell(...events) {
    for (const event of events) this.onmessage({ data: JSON.stringify(event) });
  }
}
globalThis.WebSocket = Wire;

/** Sound that nobody hears; `played` is what would be. */
class Silence extends EventTarget {
  outputLatency = 0;
  played = [];

  async open() {}
  start() {}
  end() {}
  close() {}

  play(item) {
    this.played.push(item);
  }

  async stop() {
    return [];
  }
}

const pool = { callUrl: "ws://h/v1/realtime", key: "", readiness: async () => "ready" };

async function talking() {
  const sound = new Silence();
  const conversation = new Conversation(
    () => {},
    () => {},
  );
  const call = new Call(pool, sound, conversation);
  await call.start({ microphone: false });
  const wire = Wire.last;
  wire.sent = [];
  return { call, sound, conversation, wire };
}

const sounding = (item_id, response_id) => ({
  type: "response.output_audio.delta",
  item_id,
  response_id,
  delta: "AAAA",
});

test("what was on its way when a reply was cancelled is not heard, nor taken for heard", async () => {
  const { call, sound, conversation, wire } = await talking();
  wire.tell({ type: "response.created", response: { id: "r" } });
  await call.write("something else");
  wire.tell(
    { type: "response.output_audio_transcript.delta", item_id: "a", response_id: "r", delta: "Once" },
    sounding("a", "r"),
    { type: "response.output_audio_transcript.done", item_id: "a", transcript: "Once" },
  );
  assert.deepEqual(sound.played, []);
  assert.deepEqual(wire.sent, [{ type: "response.cancel" }]);
  wire.tell({ type: "response.done", response: { id: "r", status: "cancelled" } });
  const told = wire.sent.slice(1).map(({ type }) => type);
  // Before the next reply is asked for, or its model would be told of words that nobody heard.
  assert.deepEqual(told, [
    "conversation.item.truncate",
    "conversation.item.retrieve",
    "conversation.item.create",
    "response.create",
  ]);
  assert.equal(wire.sent[1].audio_end_ms, 0);
  const content = [{ type: "output_audio", transcript: "" }];
  wire.tell({ type: "conversation.item.retrieved", item: { id: "a", content } });
  assert.deepEqual(conversation.entries, []);
  wire.tell({ type: "response.created", response: { id: "s" } }, sounding("b", "s"));
  assert.deepEqual(sound.played, ["b"]);
});
