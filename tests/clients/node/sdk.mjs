// A conversation by the official `openai` package: node sdk.mjs URL FOLDER-OF-WAVS

import net from 'node:net';
import { join } from 'node:path';
import OpenAI from 'openai';
import { OpenAIRealtimeError } from 'openai/realtime/index';
import { OpenAIRealtimeWS } from 'openai/realtime/ws';
import { Events, listen, pieces, record, tell } from './call.mjs';

const [url, folder] = process.argv.slice(2);
const TRANSCRIBED = 'conversation.item.input_audio_transcription.completed';
const TOOL = {
  type: 'function',
  name: 'count_waiting_callers',
  description: 'How many callers wait.',
  parameters: { type: 'object', properties: {} },
};

const client = new OpenAI({ apiKey: process.env.OPENAI_API_KEY, baseURL: `${url}/v1` });
// The package makes every URL wss:; with a plain connection underneath it speaks to a plain server.
const createConnection = ({ host, port }) => net.connect(port, host);
const options = url.startsWith('http:') ? { createConnection } : {};
const call = await OpenAIRealtimeWS.create(client, { model: 'gpt-realtime', options });
const events = new Events();
const errors = new Events();
call.on('event', (event) => {
  record(event);
  events.push(event);
});
call.on('error', (error) => {
  if (!error.error) throw error; // not the server's: the connection failed
  errors.push({ type: 'error', error });
});
const closed = new Promise((resolve) => call.socket.on('close', (code) => resolve(code)));

// The interruption comes first: a reply sounds only after all that was said before it.
for (const step of [connect, bargeIn, spokenTurn, textTurn, toolCall, outOfBand, mistakes]) {
  events.begin();
  await step();
}
call.close();
tell('closed', { code: await closed });

async function connect() {
  const created = await events.ever('session.created');
  call.send({
    type: 'session.update',
    session: {
      type: 'realtime',
      instructions: 'Be brief.',
      audio: { input: { transcription: { model: 'gpt-4o-mini-transcribe' } } },
    },
  });
  const { session } = await events.until('session.updated');
  tell('connected', { model: created.session.model, instructions: session.instructions });
}

async function spokenTurn() {
  hear('color.wav');
  const started = await events.until('input_audio_buffer.speech_started');
  const { transcript } = await events.ever(TRANSCRIBED, of(started));
  const { response } = await events.ever('response.done');
  const [message] = response.output;
  tell('spoken turn', {
    transcript,
    status: response.status,
    reply: message.content[0].transcript,
    bytes: soundOf(message.id),
  });
}

async function textTurn() {
  type('What is the square of seven?');
  call.send({ type: 'response.create', response: { output_modalities: ['text'] } });
  const { text } = await events.until('response.output_text.done');
  const { response } = await events.until('response.done');
  tell('text turn', { text, status: response.status });
}

async function toolCall() {
  call.send({ type: 'session.update', session: { type: 'realtime', tools: [TOOL] } });
  await events.until('session.updated');
  type('how many callers are waiting in the queue');
  call.send({ type: 'response.create' });
  const asked = await events.until('response.function_call_arguments.done');
  await events.until('response.done');
  call.send({
    type: 'conversation.item.create',
    item: { type: 'function_call_output', call_id: asked.call_id, output: '{"waiting": 3}' },
  });
  call.send({ type: 'response.create' });
  const { response } = await events.until('response.done');
  tell('tool call', {
    name: asked.name,
    arguments: asked.arguments,
    reply: response.output[0].content[0].transcript,
  });
}

async function bargeIn() {
  type('tell me a very long story');
  call.send({ type: 'response.create' });
  const first = await events.until('response.output_audio.delta');
  await listen(1);
  hear('stop.wav');
  await events.until('input_audio_buffer.speech_started');
  call.send({
    type: 'conversation.item.truncate',
    item_id: first.item_id,
    content_index: 0,
    audio_end_ms: 1_000,
  });
  await events.until('conversation.item.truncated');
  call.send({ type: 'conversation.item.retrieve', item_id: first.item_id });
  const { item } = await events.until('conversation.item.retrieved');
  const ofStory = (event) => event.response.id === first.response_id;
  const story = await events.ever('response.done', ofStory);
  const answer = await events.ever('response.done', (event) => event !== story);
  tell('barge-in', {
    left: item.content[0].transcript,
    status: story.response.status,
    reason: story.response.status_details.reason,
    answered: answer.response.status,
  });
}

async function outOfBand() {
  const input = [
    { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'what is your name' }] },
  ];
  call.send({
    type: 'response.create',
    response: {
      conversation: 'none',
      output_modalities: ['text'],
      metadata: { topic: 'name' },
      input,
    },
  });
  const { response } = await events.until('response.done');
  tell('out of band', { metadata: response.metadata, reply: response.output[0].content[0].text });
}

async function mistakes() {
  call.send({ type: 'response.cancel', event_id: 'mine' });
  const { error } = await errors.until('error');
  tell('mistake', {
    typed: error instanceof OpenAIRealtimeError,
    code: error.error.code,
    cause: error.error.event_id,
    message: error.error.message,
    errors: errors.all('error').length,
  });
}

function hear(name) {
  for (const piece of pieces(join(folder, name))) {
    call.send({ type: 'input_audio_buffer.append', audio: piece.toString('base64') });
  }
}

function type(text) {
  const item = { type: 'message', role: 'user', content: [{ type: 'input_text', text }] };
  call.send({ type: 'conversation.item.create', item });
}

/** Whether an event is of the same item. */
function of({ item_id }) {
  return (event) => event.item_id === item_id;
}

function soundOf(itemId) {
  return events
    .all('response.output_audio.delta')
    .filter((event) => event.item_id === itemId)
    .reduce((bytes, event) => bytes + Buffer.from(event.delta, 'base64').length, 0);
}
