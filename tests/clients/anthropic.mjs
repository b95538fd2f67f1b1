// The official @anthropic-ai/sdk package against a server with the bundled model.
import Anthropic from '@anthropic-ai/sdk';
import { assert, idle, runTests, test, url, weather } from './tests.mjs';

const client = new Anthropic({ baseURL: url, apiKey: 'any', maxRetries: 0 });
const model = 'deepseek-v4-flash';
const messages = [{ role: 'user', content: 'What is ds4?' }];
const plain = { model, max_tokens: 200, temperature: 0, thinking: { type: 'disabled' } };
const tool = { name: weather.name, description: weather.description, input_schema: weather.parameters };
const textOf = (message) => message.content.filter((b) => b.type === 'text').map((b) => b.text).join('');

test('models can be listed', async () => {
  const page = await client.models.list();
  assert.ok(page.data.length >= 1);
  assert.equal((await client.models.retrieve(page.data[0].id)).id, page.data[0].id);
});

test('a message, whole and streamed', async () => {
  const whole = await client.messages.create({ ...plain, messages });
  assert.equal(whole.role, 'assistant');
  assert.equal(whole.stop_reason, 'end_turn');
  assert.match(textOf(whole), /ds4/);
  const stream = client.messages.stream({ ...plain, messages });
  let text = '';
  stream.on('text', (piece) => { text += piece; });
  const final = await stream.finalMessage();
  assert.equal(text, textOf(whole));
  assert.equal(textOf(final), textOf(whole));
  assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
});

test('thinking is a block of its own in front', async () => {
  const stream = client.messages.stream({ ...plain, thinking: { type: 'enabled', budget_tokens: 1024 }, max_tokens: 2000,
    messages: [{ role: 'user', content: 'What is 12 + 30?' }] });
  const final = await stream.finalMessage();
  assert.deepEqual(final.content.map((b) => b.type), ['thinking', 'text']);
  assert.ok(final.content[0].thinking.length > 0 && final.content[0].signature.length > 0);
  assert.match(textOf(final), /42/);
});

test('a tool is called, and its result answered', async () => {
  const talk = [{ role: 'user', content: 'Look up the weather of Rome.' }];
  const stream = client.messages.stream({ ...plain, messages: talk, tools: [tool], tool_choice: { type: 'tool', name: tool.name } });
  const first = await stream.finalMessage();
  const made = first.content.find((b) => b.type === 'tool_use');
  assert.equal(first.stop_reason, 'tool_use');
  assert.equal(made.name, tool.name);
  assert.match(made.id, /^toolu_[0-9A-Za-z]{24}$/);
  assert.equal(typeof made.input, 'object');

  talk.push({ role: 'assistant', content: first.content },
    { role: 'user', content: [{ type: 'tool_result', tool_use_id: made.id, content: '{"sky": "clear"}' }] });
  const second = await client.messages.create({ ...plain, messages: talk, tools: [tool] });
  assert.ok(['end_turn', 'tool_use', 'max_tokens'].includes(second.stop_reason));
  const { usage } = second;
  assert.ok(usage.cache_read_input_tokens > first.usage.input_tokens - 32, 'the turn before is reused');
});

test('limits and stop sequences say why the answer ended', async () => {
  const short = await client.messages.create({ ...plain, messages, max_tokens: 3 });
  assert.equal(short.stop_reason, 'max_tokens');
  assert.equal(short.usage.output_tokens, 3);
  const stopped = await client.messages.create({ ...plain, messages, stop_sequences: [' is'] });
  assert.equal(stopped.stop_reason, 'stop_sequence');
  assert.equal(stopped.stop_sequence, ' is');
});

test('tokens are counted as a prompt has them', async () => {
  const count = await client.messages.countTokens({ model, messages, thinking: { type: 'disabled' } });
  const { usage } = await client.messages.create({ ...plain, messages });
  const sum = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens;
  assert.equal(count.input_tokens, sum);
});

test('refusals are the exceptions of the package', async () => {
  await assert.rejects(client.messages.create({ model, messages }), Anthropic.BadRequestError);
  await assert.rejects(client.messages.create({ ...plain, messages: [{ role: 'user', content: 'a b '.repeat(200000) }] }),
    (e) => e instanceof Anthropic.BadRequestError && /prompt is too long: \d+ tokens > \d+ maximum/.test(e.message));
  await assert.rejects(client.messages.create({ ...plain, messages,
    output_config: { format: { type: 'json_schema', schema: { type: 'object' } } } }), Anthropic.BadRequestError);
});

test('a stream that is dropped frees its slot', async () => {
  const stream = await client.messages.create({ model, max_tokens: 100000, temperature: 1, stream: true,
    messages: [{ role: 'user', content: 'Repeat: a b c' }] });
  for await (const event of stream) if (event.type === 'content_block_delta') break;
  stream.controller.abort();
  assert.ok(await idle());
});

await runTests('anthropic');
