// Starts a server program on a free port of this machine and stops it again.
import { spawn } from 'node:child_process';

const folder = process.env.DS4_BIN;

/** { url, log(), stop() }; stop ends it by SIGTERM and waits. */
export async function startServer({ program, args }) {
  const child = spawn(`${folder}/${program}`, ['--port', '0', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  const ended = new Promise((resolve) => child.on('close', resolve));
  const url = await new Promise((resolve, reject) => {
    const take = (data) => {
      log += data;
      const at = log.match(/listening on (http:\/\/\S+)/);
      if (at) resolve(at[1]);
    };
    child.stdout.on('data', take);
    child.stderr.on('data', take);
    child.on('error', reject);
    ended.then((code) => reject(new Error(`${program} ended with ${code}: ${log.slice(-400)}`)));
  });
  for (;;) {
    const health = await fetch(`${url}/health`);
    if (health.status === 200) break;
    await new Promise((r) => setTimeout(r, 50));
  }
  return { url, log: () => log, stop: async () => { child.kill('SIGTERM'); return ended; } };
}
