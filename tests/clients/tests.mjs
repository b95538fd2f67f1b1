// A few lines of test runner: named checks, a sum at the end.
import assert from 'node:assert/strict';

export { assert };
const queue = [];
export const test = (name, run) => queue.push({ name, run });

/** Runs all tests one after the other and prints `N passed, N failed, N skipped`. */
export async function runTests(group) {
  let passed = 0, failed = 0, running = '';
  // A promise that nothing will settle ends the program without a word of its own.
  process.on('exit', () => { if (running) console.log(`FAIL ${group}: ${running}: waits for something that never comes`); });
  for (const { name, run } of queue) {
    running = name;
    try {
      await run();
      passed++;
    } catch (error) {
      failed++;
      console.log(`FAIL ${group}: ${name}: ${String(error.stack ?? error).split('\n').slice(0, 4).join(' | ')}`);
    }
  }
  running = '';
  console.log(`${passed} passed, ${failed} failed, 0 skipped`);
  process.exitCode = failed ? 1 : 0;
}

export const url = process.env.DS4_URL;

/** GET or POST of JSON. */
export async function call(path, body) {
  const init = body === undefined ? {} : { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
  const answer = await fetch(url + path, init);
  return { status: answer.status, headers: answer.headers, body: await answer.json() };
}

/** Waits until no slot is at work. */
export async function idle(seconds = 5) {
  for (const end = Date.now() + 1000 * seconds; Date.now() < end; await new Promise((r) => setTimeout(r, 20))) {
    const { body } = await call('/slots');
    if (body.every((slot) => slot.state === 'idle' || slot.state === 'empty')) return true;
  }
  return false;
}

export const weather = {
  name: 'get_weather',
  description: 'Look up the weather of a city',
  parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
};
