// Runs one of the SDKs that people have against BASE and prints what it gave, a
// line of JSON for each call: {"call": ..., "got": ...}. TestClients runs it
// once at Ollama itself and once through the gate, and compares.
const { BASE, KEY, CLIENT } = process.env;

const question = [{ role: 'user', content: 'hi' }];
const tools = [{ type: 'function', function: { name: 'clock', description: 'tells the time', parameters: { type: 'object', properties: {} } } }];
const steady = { seed: 1, temperature: 0, num_predict: 8 };
const endless = { num_predict: 1e9 };

// say prints what a call gave, or how it failed.
async function say(call, what) {
  let got;
  try {
    got = await what();
  } catch (e) {
    got = { failed: e.name === 'Error' ? e.constructor.name : e.name, status: e.status ?? e.status_code, message: e.message };
  }
  console.log(JSON.stringify({ call, got }));
}

async function all(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return pieces;
}

// some takes a few pieces of a stream without end and leaves.
async function some(stream, leave) {
  let n = 0;
  try {
    for await (const _ of stream) if (++n === 3) leave();
  } catch (e) {
    if (n < 3) throw e;
  }
  return { pieces: n < 3 ? n : 'enough' };
}

const clients = {
  async ollama() {
    const { Ollama } = await import('ollama');
    const client = new Ollama({ host: BASE, headers: KEY ? { Authorization: `Bearer ${KEY}` } : {} });
    await say('list', () => client.list());
    await say('show', () => client.show({ model: 'tiny' }));
    await say('ps', () => client.ps());
    await say('chat', () => client.chat({ model: 'tiny', messages: question, options: steady }));
    await say('chat stream', async () => all(await client.chat({ model: 'tiny', messages: question, options: steady, stream: true })));
    await say('generate stream', async () => all(await client.generate({ model: 'tiny', prompt: 'hi', options: steady, stream: true })));
    await say('embed', () => client.embed({ model: 'tiny', input: ['hi', 'there'] }));
    await say('tools', () => client.chat({ model: 'handy', messages: question, tools, options: steady }));
    await say('tools of a model without', () => client.chat({ model: 'tiny', messages: question, tools }));
    await say('no such model', () => client.chat({ model: 'none', messages: question }));
    await say('cancel', async () => {
      const stream = await client.chat({ model: 'tiny', messages: question, options: endless, stream: true });
      return some(stream, () => stream.abort());
    });
    await say('chat after', () => client.chat({ model: 'tiny', messages: question, options: steady }));
  },

  async openai() {
    const { default: OpenAI } = await import('openai');
    const client = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: KEY || 'ollama', maxRetries: 0 });
    const chat = { model: 'tiny', messages: question, seed: 1, temperature: 0, max_tokens: 8 };
    await say('models', async () => (await client.models.list()).data);
    await say('model', () => client.models.retrieve('tiny:latest'));
    await say('chat', () => client.chat.completions.create(chat));
    await say('chat stream', async () => all(await client.chat.completions.create({ ...chat, stream: true })));
    await say('chat stream with usage', async () => all(await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } })));
    await say('completion', () => client.completions.create({ model: 'tiny', prompt: 'hi', seed: 1, temperature: 0, max_tokens: 8 }));
    await say('completion stream', async () => all(await client.completions.create({ model: 'tiny', prompt: 'hi', seed: 1, temperature: 0, max_tokens: 8, stream: true })));
    await say('response', async () => (await client.responses.create({ model: 'tiny', input: 'hi', temperature: 0, max_output_tokens: 8 })).output_text);
    await say('response stream', async () => (await all(await client.responses.create({ model: 'tiny', input: 'hi', temperature: 0, max_output_tokens: 8, stream: true }))).map((e) => [e.type, e.delta]));
    await say('embeddings', () => client.embeddings.create({ model: 'tiny', input: ['hi', 'there'] }));
    await say('tools', () => client.chat.completions.create({ ...chat, model: 'handy', tools }));
    await say('tools of a model without', () => client.chat.completions.create({ ...chat, tools }));
    await say('no such model', () => client.chat.completions.create({ ...chat, model: 'none' }));
    await say('cancel', async () => {
      const stream = await client.chat.completions.create({ model: 'tiny', messages: question, max_tokens: 1e9, stream: true });
      return some(stream, () => stream.controller.abort());
    });
    await say('chat after', () => client.chat.completions.create(chat));
  },

  async anthropic() {
    const { default: Anthropic } = await import('@anthropic-ai/sdk');
    const client = new Anthropic({ baseURL: BASE, apiKey: KEY || 'ollama', maxRetries: 0 });
    const message = { model: 'tiny', messages: question, temperature: 0, max_tokens: 8 };
    const hands = [{ name: 'clock', description: 'tells the time', input_schema: { type: 'object', properties: {} } }];
    await say('message', () => client.messages.create(message));
    await say('message stream', async () => all(await client.messages.create({ ...message, stream: true })));
    await say('message helper', () => client.messages.stream(message).finalMessage());
    await say('tools', () => client.messages.create({ ...message, model: 'handy', tools: hands }));
    await say('tools of a model without', () => client.messages.create({ ...message, tools: hands }));
    await say('no such model', () => client.messages.create({ ...message, model: 'none' }));
    await say('cancel', async () => {
      const stream = await client.messages.create({ ...message, max_tokens: 1e9, stream: true });
      return some(stream, () => stream.controller.abort());
    });
    await say('message after', () => client.messages.create(message));
  },
};

await clients[CLIENT]();
