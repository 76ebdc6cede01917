// A caller whose calls the server ends, and who calls again: node reconnect.mjs URL

import net from 'node:net';
import OpenAI from 'openai';
import { OpenAIRealtimeWS } from 'openai/realtime/ws';
import { Events, record, tell } from './call.mjs';

const [url] = process.argv.slice(2);
const client = new OpenAI({ apiKey: process.env.OPENAI_API_KEY, baseURL: `${url}/v1` });
const createConnection = ({ host, port }) => net.connect(port, host);
const options = url.startsWith('http:') ? { createConnection } : {};
const call = await OpenAIRealtimeWS.create(client, {
  model: 'gpt-realtime',
  reconnect: true,
  reconnectInitialDelay: 10,
  options,
});
const events = new Events();
call.on('event', (event) => {
  record(event);
  events.push(event);
});
call.on('error', (error) => tell('error', { code: error.error?.code }));
call.on('reconnecting', ({ closeCode }) => tell('reconnecting', { code: closeCode }));
call.on('reconnected', () => tell('reconnected'));
call.on('close', (code) => tell('closed', { code }));

const first = await events.until('session.created');
const second = await events.until('session.created');
tell('called again', { anew: second.session.id !== first.session.id });
call.send({
  type: 'conversation.item.create',
  item: {
    type: 'message',
    role: 'user',
    content: [{ type: 'input_text', text: 'What is the square of seven?' }],
  },
});
call.send({ type: 'response.create', response: { output_modalities: ['text'] } });
const { text } = await events.until('response.output_text.done');
tell('answered', { text });
call.close();
