// A caller who finds all lines busy, and calls until one is free: node busy.mjs URL

import { once } from 'node:events';
import net from 'node:net';
import OpenAI from 'openai';
import { OpenAIRealtimeWS } from 'openai/realtime/ws';
import WebSocket from 'ws';
import { Events, tell } from './call.mjs';

const [url] = process.argv.slice(2);
const talker = new WebSocket(`${url.replace(/^http/, 'ws')}/v1/realtime`);
await once(talker, 'message');
const client = new OpenAI({ apiKey: process.env.OPENAI_API_KEY, baseURL: `${url}/v1` });
const createConnection = ({ host, port }) => net.connect(port, host);
const call = await OpenAIRealtimeWS.create(client, {
  model: 'gpt-realtime',
  reconnect: true,
  reconnectInitialDelay: 10,
  maxReconnectAttempts: 1_000,
  options: { createConnection },
});
const events = new Events();
call.on('event', (event) => events.push(event));
call.on('error', () => {}); // the SDK's word for each refusal, which it gets over
call.on('reconnecting', () => {
  tell('refused');
  talker.close();
});
call.on('close', (code) => tell('closed', { code }));

const { session } = await events.until('session.created');
tell('served', { model: session.model });
call.close();
