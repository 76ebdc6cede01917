// Calls as a page in a browser makes them: node browser.mjs URL
//
// A browser sends no headers with a WebSocket, so the key travels as a subprotocol; and as the
// page's key is seen by everybody, it is a client secret that the page's server made for it.

import { OpenAIRealtimeWebSocket as AgentsTransport } from '@openai/agents-realtime';
import OpenAI from 'openai';
import { OpenAIRealtimeWebSocket } from 'openai/realtime/websocket';
import WebSocket from 'ws';
import { Events, tell } from './call.mjs';

globalThis.WebSocket ??= WebSocket; // what a browser has; Node.js has it since version 22

const [url] = process.argv.slice(2);
const server = new OpenAI({ apiKey: process.env.OPENAI_API_KEY, baseURL: `${url}/v1` });
const made = await server.realtime.clientSecrets.create({
  expires_after: { anchor: 'created_at', seconds: 60 },
  session: { type: 'realtime', instructions: 'Be brief.', output_modalities: ['text'] },
});
tell('secret', { prefix: made.value.slice(0, 3), instructions: made.session.instructions });
await byTheSdk(made.value);
await byTheAgentsSdk(made.value);
const names = [];
for await (const model of server.models.list()) names.push(model.id);
tell('models', { names });

async function byTheSdk(secret) {
  const page = new OpenAI({ apiKey: secret, baseURL: `${url}/v1`, dangerouslyAllowBrowser: true });
  const call = new OpenAIRealtimeWebSocket({ model: 'gpt-realtime' }, page);
  const events = new Events();
  call.on('event', (event) => events.push(event));
  const { session } = await events.until('session.created');
  call.send({
    type: 'conversation.item.create',
    item: {
      type: 'message',
      role: 'user',
      content: [{ type: 'input_text', text: 'What is the square of seven?' }],
    },
  });
  call.send({ type: 'response.create' });
  const { text } = await events.until('response.output_text.done');
  const { protocol } = call.socket;
  call.close();
  tell('sdk', { protocol, instructions: session.instructions, text });
}

async function byTheAgentsSdk(secret) {
  const endpoint = `${url.replace(/^http/, 'ws')}/v1/realtime?model=gpt-realtime`;
  let socket;
  const call = new AgentsTransport({
    url: endpoint,
    // As the SDK itself connects in a browser.
    createWebSocket: async ({ url, apiKey }) => {
      const key = `openai-insecure-api-key.${apiKey}`;
      socket = new WebSocket(url, ['realtime', key, 'openai-agents-sdk.0.20.0']);
      return socket;
    },
  });
  const events = new Events();
  call.on('*', (event) => events.push(event));
  await call.connect({ apiKey: secret });
  await events.until('session.updated');
  const { protocol } = socket;
  call.close();
  tell('agents sdk', { protocol });
}
