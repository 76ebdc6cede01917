// A conversation by the Agents SDK: node agents.mjs URL FOLDER-OF-WAVS

import { join } from 'node:path';
import {
  OpenAIRealtimeWebSocket,
  RealtimeAgent,
  RealtimeSession,
  tool,
} from '@openai/agents-realtime';
import { z } from 'zod';
import { Events, listen, pieces, record, tell } from './call.mjs';

const [url, folder] = process.argv.slice(2);
const endpoint = `${url.replace(/^http/, 'ws')}/v1/realtime?model=gpt-realtime`;

const countCallers = tool({
  name: 'count_waiting_callers',
  description: 'How many callers wait.',
  parameters: z.object({}),
  execute: async () => ({ waiting: 3 }),
});
const agent = new RealtimeAgent({
  name: 'Operator',
  instructions: 'Be brief.',
  voice: 'marin',
  tools: [countCallers],
});
const transport = new OpenAIRealtimeWebSocket({ url: endpoint });
const session = new RealtimeSession(agent, { transport, tracingDisabled: true });

const wire = new Events();
const told = new Events();
transport.on('*', (event) => {
  record(event);
  wire.push(event);
});
session.on('audio', (event) => told.push({ type: 'audio', bytes: event.data.byteLength }));
session.on('audio_interrupted', () => told.push({ type: 'audio_interrupted' }));
session.on('agent_end', (_context, _agent, text) => told.push({ type: 'agent_end', text }));
session.on('agent_tool_end', (_context, _agent, { name }, result) =>
  told.push({ type: 'agent_tool_end', name, result }),
);
session.on('error', (event) => told.push({ type: 'error', error: event.error }));
transport.on('disconnected', () => told.push({ type: 'disconnected' }));

// The interruption comes first: a reply sounds only after all that was said before it.
for (const step of [connect, bargeIn, spokenTurn, textTurn, toolCall, otherAgent, mistakes]) {
  wire.begin();
  told.begin();
  await step();
}
session.close();
await told.until('disconnected');
tell('closed');

async function connect() {
  await session.connect({ apiKey: process.env.OPENAI_API_KEY });
  const configured = (event) => event.session.instructions !== '';
  const updated = await wire.ever('session.updated', configured);
  tell('connected', {
    instructions: updated.session.instructions,
    tools: updated.session.tools.map(({ name }) => name),
    turns: updated.session.audio.input.turn_detection,
    errors: told.all('error').length,
  });
}

async function spokenTurn() {
  hear('color.wav');
  const { item_id } = await wire.until('input_audio_buffer.speech_started');
  // The SDK asks for the item once its transcript is there: its history has the caller's words then.
  await wire.ever('conversation.item.retrieved', (event) => event.item.id === item_id);
  await wire.ever('response.done');
  const bytes = told.all('audio').reduce((sum, event) => sum + event.bytes, 0);
  tell('spoken turn', { history: messages(), bytes, errors: told.all('error').length });
}

async function textTurn() {
  session.sendMessage('What is the square of seven?');
  const { text } = await told.until('agent_end');
  tell('text turn', { text, history: messages() });
}

async function toolCall() {
  session.sendMessage('how many callers are waiting in the queue');
  const { name, result } = await told.ever('agent_tool_end');
  const { text } = await told.ever('agent_end', (event) => event.text !== '');
  const calls = session.history.filter((item) => item.type === 'function_call');
  tell('tool call', { name, result, reply: text, output: calls[0].output });
}

async function bargeIn() {
  session.sendMessage('tell me a very long story');
  const { item_id, response_id } = await wire.until('response.output_audio.delta');
  await listen(1);
  hear('stop.wav');
  await told.until('audio_interrupted');
  await wire.until('conversation.item.truncated', (event) => event.item_id === item_id);
  await wire.until('conversation.item.retrieved', (event) => event.item.id === item_id);
  const left = messages().find((message) => message.id === item_id);
  await wire.ever('response.done', (event) => event.response.id !== response_id);
  tell('barge-in', { left: left.text, errors: told.all('error').length });
}

async function otherAgent() {
  await session.updateAgent(new RealtimeAgent({ name: 'Clerk', instructions: 'Be polite.' }));
  const { session: now } = await wire.ever(
    'session.updated',
    (event) => event.session.instructions === 'Be polite.',
  );
  tell('other agent', { instructions: now.instructions, errors: told.all('error').length });
}

async function mistakes() {
  transport.sendEvent({ type: 'conversation.item.delete', item_id: 'nowhere', event_id: 'mine' });
  const { error } = await told.until('error');
  tell('mistake', { code: error.error.code, cause: error.error.event_id });
}

function hear(name) {
  for (const piece of pieces(join(folder, name))) {
    session.sendAudio(Uint8Array.from(piece).buffer);
  }
}

/** The messages of the SDK's own history. */
function messages() {
  return session.history
    .filter((item) => item.type === 'message')
    .map(({ itemId: id, role, status, content }) => ({
      id,
      role,
      status,
      text: content.map((part) => part.transcript ?? part.text).join(' '),
    }));
}
