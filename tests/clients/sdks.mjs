// Runs the SDK tests against a server with the bundled model; the last line is their sum.
import { spawn } from 'node:child_process';
import { startServer } from './server.mjs';

const server = await startServer({ program: 'ds4-server', args: ['--ctx', '16384', '--slots', '2'] });
const sum = [0, 0, 0];
for (const file of ['openai.mjs', 'anthropic.mjs']) {
  const path = new URL(file, import.meta.url).pathname;
  const child = spawn(process.execPath, [path], { env: { ...process.env, DS4_URL: server.url }, stdio: ['ignore', 'pipe', 'inherit'] });
  let out = '';
  child.stdout.on('data', (d) => { out += d; process.stdout.write(d); });
  await new Promise((resolve) => child.on('close', resolve));
  const counts = out.match(/(\d+) passed, (\d+) failed, (\d+) skipped\s*$/);
  if (counts) counts.slice(1).forEach((n, i) => { sum[i] += +n; });
  else { console.log(`FAIL ${file} printed no sum: ${out.slice(-400)}`); sum[1]++; }
}
const code = await server.stop();
if (code !== 0) { console.log(`FAIL the server ended with ${code}: ${server.log().slice(-600)}`); sum[1]++; }
console.log(`${sum[0]} passed, ${sum[1]} failed, ${sum[2]} skipped`);
