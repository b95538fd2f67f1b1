// The official openai package against a server with the bundled model.
import OpenAI from 'openai';
import { assert, call, idle, runTests, test, url, weather } from './tests.mjs';

const client = new OpenAI({ baseURL: url + '/v1', apiKey: 'any', maxRetries: 0 });
const model = 'deepseek-v4-flash';
const question = [{ role: 'user', content: 'What is ds4?' }];
const plain = { model, temperature: 0, max_tokens: 200, thinking: { type: 'disabled' } };
const tool = { type: 'function', function: weather };
const named = { type: 'function', function: { name: weather.name } };

test('models can be listed and retrieved', async () => {
  const list = await client.models.list();
  assert.ok(list.data.length >= 1);
  const one = await client.models.retrieve(list.data[0].id);
  assert.equal(one.id, list.data[0].id);
  assert.equal(one.object, 'model');
});

test('a chat completion is whole and its usage adds up', async () => {
  const c = await client.chat.completions.create({ ...plain, messages: question });
  assert.equal(c.object, 'chat.completion');
  assert.equal(c.choices[0].finish_reason, 'stop');
  assert.match(c.choices[0].message.content, /ds4/);
  assert.equal(c.choices[0].message.reasoning_content, undefined);
  assert.equal(c.usage.total_tokens, c.usage.prompt_tokens + c.usage.completion_tokens);
  assert.equal(c.usage.prompt_cache_hit_tokens + c.usage.prompt_cache_miss_tokens, c.usage.prompt_tokens);
});

test('a stream gives the same text as the whole answer', async () => {
  const whole = await client.chat.completions.create({ ...plain, messages: question });
  const stream = client.chat.completions.stream({ ...plain, messages: question, stream_options: { include_usage: true } });
  const pieces = [];
  stream.on('content', (piece) => pieces.push(piece));
  const final = await stream.finalChatCompletion();
  assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
  assert.equal(pieces.join(''), whole.choices[0].message.content);
  assert.ok(pieces.length > 1, 'it came in pieces');
  assert.equal(final.usage.completion_tokens, whole.usage.completion_tokens);
});

test('thinking comes as reasoning_content before the text', async () => {
  const request = { ...plain, thinking: { type: 'enabled' }, messages: [{ role: 'user', content: 'What is 12 + 30?' }] };
  const c = await client.chat.completions.create(request);
  assert.match(c.choices[0].message.content, /42/);
  assert.ok(c.choices[0].message.reasoning_content.length > 0);
  assert.ok(c.usage.completion_tokens_details.reasoning_tokens > 0);

  let order = '';
  for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) {
    const delta = chunk.choices[0]?.delta ?? {};
    if (delta.reasoning_content) order += 'r';
    if (delta.content) order += 't';
  }
  assert.match(order, /^r+t+$/);
});

test('a named tool is called, and its result answered', async () => {
  const messages = [{ role: 'user', content: 'Look up the weather of Rome.' }];
  const first = await client.chat.completions.create({ ...plain, messages, tools: [tool], tool_choice: named });
  const message = first.choices[0].message;
  assert.equal(first.choices[0].finish_reason, 'tool_calls');
  assert.equal(message.tool_calls[0].function.name, weather.name);
  assert.equal(typeof JSON.parse(message.tool_calls[0].function.arguments), 'object');
  assert.match(message.tool_calls[0].id, /^call_[0-9a-f]{32}$/);

  messages.push(message, { role: 'tool', tool_call_id: message.tool_calls[0].id, content: '{"sky": "clear"}' });
  const second = await client.chat.completions.create({ ...plain, messages, tools: [tool] });
  assert.ok(['stop', 'tool_calls', 'length'].includes(second.choices[0].finish_reason));
  assert.ok(second.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens - 32, 'the turn before is reused');
});

test('the helper puts a streamed tool call together', async () => {
  const stream = client.chat.completions.stream({
    ...plain, messages: [{ role: 'user', content: 'Look up the weather of Oslo.' }], tools: [tool], tool_choice: named,
  });
  const final = await stream.finalChatCompletion();
  const made = final.choices[0].message.tool_calls[0];
  assert.equal(made.function.name, weather.name);
  assert.equal(typeof JSON.parse(made.function.arguments), 'object');
});

test('runTools goes round with the tool', async () => {
  let called = 0;
  const runner = client.chat.completions.runTools({
    ...plain, messages: [{ role: 'user', content: 'Look up the weather of Rome.' }], tool_choice: named,
    tools: [{ type: 'function', function: { ...weather, parse: JSON.parse, function: () => { called++; return '{"sky": "clear"}'; } } }],
  }, { maxChatCompletions: 2 });
  await runner.done().catch(() => {});
  assert.ok(called >= 1);
});

test('two choices, a stop string and logprobs', async () => {
  const two = await client.chat.completions.create({ ...plain, messages: question, n: 2 });
  assert.deepEqual(two.choices.map((c) => c.index), [0, 1]);
  assert.equal(two.choices[0].message.content, two.choices[1].message.content);

  const stopped = await client.chat.completions.create({ ...plain, messages: question, stop: ' is' });
  assert.equal(stopped.choices[0].finish_reason, 'stop');
  assert.ok(!stopped.choices[0].message.content.includes(' is'));

  const scored = await client.chat.completions.create({ ...plain, messages: question, logprobs: true, top_logprobs: 3 });
  const { content } = scored.choices[0].logprobs;
  assert.equal(content.map((t) => t.token).join(''), scored.choices[0].message.content);
  for (const t of content) {
    assert.ok(t.logprob <= 0);
    assert.equal(t.top_logprobs.length, 3);
    assert.equal(t.top_logprobs[0].logprob, Math.max(...t.top_logprobs.map((o) => o.logprob)));
  }
});

test('refusals are the exceptions of the package', async () => {
  await assert.rejects(client.chat.completions.create({ model, messages: [] }), OpenAI.BadRequestError);
  await assert.rejects(client.chat.completions.create({ model, messages: question, temperature: 9 }),
    (e) => e instanceof OpenAI.BadRequestError && e.param === 'temperature');
  await assert.rejects(client.chat.completions.create({ model, messages: [{ role: 'user', content: 'a b '.repeat(200000) }] }),
    (e) => e.status === 400 && e.code === 'context_length_exceeded' && /maximum context length is \d+ tokens/.test(e.message));
  await assert.rejects(client.chat.completions.create({ model, messages: question,
    response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { type: 'object' } } } }),
  (e) => e.status === 400 && e.param.startsWith('response_format'));
  await assert.rejects(client.embeddings.create({ model, input: 'x' }), OpenAI.NotFoundError);
});

test('completions take raw prompts', async () => {
  const c = await client.completions.create({ model, prompt: 'ds4 is', max_tokens: 8, temperature: 0, echo: true });
  assert.ok(c.choices[0].text.startsWith('ds4 is'));
  let text = '';
  for await (const chunk of await client.completions.create({ model, prompt: 'ds4 is', max_tokens: 8, temperature: 0, stream: true }))
    text += chunk.choices[0]?.text ?? '';
  assert.equal('ds4 is' + text, c.choices[0].text);
});

test('a response, whole and streamed', async () => {
  const request = { model, input: 'What is ds4?', temperature: 0, max_output_tokens: 200, reasoning: { effort: 'none' } };
  const whole = await client.responses.create(request);
  assert.equal(whole.status, 'completed');
  assert.match(whole.output_text, /ds4/);
  const stream = client.responses.stream(request);
  let text = '';
  stream.on('response.output_text.delta', (e) => { text += e.delta; });
  const final = await stream.finalResponse();
  assert.equal(text, whole.output_text);
  assert.equal(final.output_text, whole.output_text);
  assert.equal(final.usage.total_tokens, final.usage.input_tokens + final.usage.output_tokens);
});

test('a response thinks, calls a function and takes its output', async () => {
  const tools = [{ type: 'function', ...weather, strict: false }];
  const input = [{ role: 'user', content: 'Look up the weather of Rome.' }];
  const first = await client.responses.create({ model, input, tools, temperature: 0, max_output_tokens: 400,
    tool_choice: { type: 'function', name: weather.name }, include: ['reasoning.encrypted_content'] });
  const made = first.output.find((item) => item.type === 'function_call');
  assert.equal(made.name, weather.name);
  const thought = first.output.find((item) => item.type === 'reasoning');
  if (thought) assert.ok(thought.encrypted_content.length > 0);

  input.push(...first.output, { type: 'function_call_output', call_id: made.call_id, output: '{"sky": "clear"}' });
  const second = await client.responses.create({ model, input, tools, temperature: 0, max_output_tokens: 200 });
  assert.ok(['completed', 'incomplete'].includes(second.status));
  assert.ok(second.usage.input_tokens_details.cached_tokens > first.usage.input_tokens - 32, 'the turn before is reused');
  await assert.rejects(client.responses.create({ model, input: [{ type: 'function_call_output', call_id: 'call_nobody', output: 'x' }] }),
    /No tool call found for function call output with call_id call_nobody/);
});

test('a stream that is dropped frees its slot', async () => {
  const stream = await client.chat.completions.create({ model, messages: [{ role: 'user', content: 'Repeat: a b c d e f g' }],
    stream: true, max_tokens: 100000, temperature: 2, min_p: 0 });
  for await (const chunk of stream) { if (chunk.choices.length) break; }
  stream.controller.abort();
  assert.ok(await idle());
});

test('health, metrics and tokens', async () => {
  assert.equal((await call('/health')).body.status, 'ok');
  const { tokens } = (await call('/tokenize', { content: 'What is ds4?' })).body;
  assert.equal((await call('/detokenize', { tokens })).body.content, 'What is ds4?');
  const prompt = (await call('/apply-template', { messages: question })).body.prompt;
  assert.ok(prompt.includes('What is ds4?'));
  const metrics = await (await fetch(url + '/metrics')).text();
  assert.match(metrics, /vllm:generation_tokens_total\{[^}]*\} [1-9]/);
});

await runTests('openai');
