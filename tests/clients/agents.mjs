// Claude Code, Codex, opencode and Pi, each with a home of its own, against ds4-server.
//
//   node agents.mjs real        one question to the bundled model, which is made for short prompts: with a short system
//                               text and without tools, as far as the client can be told so
//   node agents.mjs scripted    twenty tool turns, a restart of the server, and the same conversation resumed for twenty more;
//                               the engine behind the server plays a script, the clients, prompts and tools are real
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startServer } from './server.mjs';
import { assert, runTests, test } from './tests.mjs';

const bin = new URL('./node_modules/.bin/', import.meta.url).pathname;
const page = readFileSync(new URL('../../docs/clients.md', import.meta.url), 'utf8');
const model = 'deepseek-v4-flash';
const context = '128k';
const turns = 20;                       // tool turns before the server is started again, and as many after
const short = 'You are a helpful assistant';

/** The first indented block below a heading of docs/clients.md, for this server: what users copy is what is tested. */
function advice(heading, url) {
  const lines = page.slice(page.indexOf(`\n## ${heading}\n`)).split('\n').slice(2);
  const first = lines.findIndex((line) => line.startsWith('    '));
  const length = lines.slice(first).findIndex((line) => line !== '' && !line.startsWith('    '));
  return lines.slice(first, first + length).map((line) => line.slice(4)).join('\n').replaceAll('http://127.0.0.1:8000', url);
}
const exported = (text) => Object.fromEntries([...text.matchAll(/^export (\w+)=(\S+)$/gm)].map(([, name, value]) => [name, value]));

// How each client is asked, what it reads a file with, and what makes its prompt short.
const agents = {
  'Claude Code': {
    command: 'claude',
    ask: (prompt, resume) => [...(resume ? ['--continue'] : []), '--allowedTools', 'Read', '-p', prompt],
    environment: (url) => exported(advice('Claude Code', url)),
    plain: ['--system-prompt', short, '--tools='],
    says: /\S/,                         // it puts the date in front of the question, which the model answers to
    read: (path) => ['Read', { file_path: path }],
  },
  Codex: {
    command: 'codex',
    ask: (prompt, resume) => ['exec', ...(resume ? ['resume', '--last'] : ['-s', 'danger-full-access']), '--skip-git-repo-check', prompt],
    files: (url) => ({ '.codex/config.toml': advice('Codex', url), 'short.md': short }),
    plain: [...['goals', 'multi_agent', 'shell_tool', 'plugins'].flatMap((f) => ['--disable', f]),
      ...['web_search="disabled"', 'include_environment_context=false', 'include_permissions_instructions=false',
        'skills.include_instructions=false', 'model_instructions_file="../short.md"'].flatMap((o) => ['-c', o])],
    says: /inference engine/,
    read: (path) => ['exec_command', { cmd: `cat ${path}` }],
  },
  opencode: {
    command: 'opencode',
    ask: (prompt, resume) => ['run', ...(resume ? ['--continue'] : []), prompt],
    environment: () => ({ OPENCODE_DISABLE_AUTOUPDATE: '1' }),
    files: (url) => ({ '.config/opencode/opencode.json': JSON.stringify({ ...JSON.parse(advice('opencode', url)),
      agent: { plain: { mode: 'primary', prompt: short, tools: { '*': false } } } }) }),
    plain: ['--agent', 'plain'],
    says: /inference engine/,
    read: (path) => ['read', { filePath: path }],
  },
  Pi: {
    command: 'pi',
    ask: (prompt, resume) => [...(resume ? ['--continue'] : []), '-p', '--provider', 'ds4', '--model', model, prompt],
    files: (url) => ({ '.pi/agent/models.json': advice('Pi', url) }),
    plain: ['--no-tools', '--system-prompt', short],
    says: /inference engine/,
    read: (path) => ['read', { path }],
  },
};

const home = mkdtempSync(join(process.env.DS4_CLIENT_HOME ?? tmpdir(), 'ds4-agents-'));
process.on('exit', () => rmSync(home, { recursive: true, force: true }));

/** Runs a client to its end; gives what it printed. */
function run(agent, url, folder, args) {
  mkdirSync(join(folder, 'work'), { recursive: true });
  for (const [path, content] of Object.entries(agent.files?.(url) ?? {})) {
    mkdirSync(join(folder, path, '..'), { recursive: true });
    writeFileSync(join(folder, path), content);
  }
  const env = { PATH: process.env.PATH, LANG: 'C.UTF-8', TERM: 'dumb', HOME: folder, ...agent.environment?.(url) };
  const child = spawn(bin + agent.command, args, { cwd: join(folder, 'work'), env, stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  child.stdout.on('data', (d) => { out += d; });
  child.stderr.on('data', (d) => { out += d; });
  const timer = setTimeout(() => child.kill('SIGKILL'), 180000);
  return new Promise((resolve) => child.on('close', (code) => { clearTimeout(timer); resolve({ code, out }); }));
}

/** The script of tests/server/fake_engine.h: what the model says in each turn. */
function script(agent, folder) {
  const dsml = '\uFF5CDSML\uFF5C';
  const rules = [{ prompt: 'title generator', answer: 'Short.</think>Notes' }];
  for (let i = 0; i < 2 * turns + 2; i++) {
    const last = i % (turns + 1) === turns;
    const [tool, input] = agent.read(join(folder, 'work', `note-${i}.txt`));
    const values = Object.entries(input).map(([k, v]) => `<${dsml}parameter name="${k}" string="true">${v}</${dsml}parameter>\n`).join('');
    rules.push({ turn: i + 1, answer: last ? 'The notes are read.</think>All notes are read.'
      : `Note ${i} comes next.</think>Reading note ${i}.\n\n<${dsml}tool_calls>\n<${dsml}invoke name="${tool}">\n${values}</${dsml}invoke>\n</${dsml}tool_calls>` });
  }
  return { vocabulary: process.env.DS4_TINY, context: 131072, rules };
}

/** The cache decisions of the main conversation, from the server's log. */
function decisions(log) {
  return [...log.matchAll(/reuse=(\S+) tokens=(\d+) prompt=(\d+) suffix=(\d+)/g)]
    .map(([, method, tokens, prompt, suffix]) => ({ method, tokens: +tokens, prompt: +prompt, suffix: +suffix }))
    .filter((d) => d.prompt > 1500);
}

function checkReuse(name, all, first) {
  const steady = all.slice(first);
  const reused = steady.reduce((n, d) => n + d.tokens, 0), prompt = steady.reduce((n, d) => n + d.prompt, 0);
  console.log(`${name}: ${steady.length} turns, ${(100 * reused / prompt).toFixed(2)} % of ${prompt} prompt tokens reused; ` +
    `methods ${[...new Set(steady.map((d) => d.method))].join(' ')}`);
  assert.ok(reused >= 0.98 * prompt, `${name}: ${reused} of ${prompt} tokens were reused`);
  for (let i = 0; i < steady.length; i++) {
    const before = all[first + i - 1]?.prompt ?? 0;
    assert.ok(steady[i].suffix <= steady[i].prompt - before + 300, `${name}: turn ${first + i} computed ${steady[i].suffix} tokens`);
  }
}

async function realPrompt(name, agent) {
  const server = await startServer({ program: 'ds4-server', args: ['--ctx', context, '--slots', '2', '--temp', '0', '--nothink'] });
  try {
    const args = agent.ask('What is ds4?', false, server.url);
    const { code, out } = await run(agent, server.url, join(home, 'real-' + agent.command), [...args.slice(0, -1), ...agent.plain, args.at(-1)]);
    assert.equal(code, 0, out.slice(-400));
    assert.match(out, agent.says);
    assert.match(server.log(), /status=200 .*finish=stop/);
  } finally { await server.stop(); }
}

async function scriptedTurns(name, agent) {
  const folder = join(home, 'scripted-' + agent.command), disk = join(home, 'kv-' + agent.command);
  mkdirSync(join(folder, 'work'), { recursive: true });
  for (let i = 0; i < 2 * turns + 2; i++) writeFileSync(join(folder, 'work', `note-${i}.txt`), `This is note ${i}.\n`.repeat(1 + i % 3));
  const model_file = join(folder, 'script.json');
  writeFileSync(model_file, JSON.stringify(script(agent, folder)));
  const options = { program: 'ds4-server-scripted', args: ['-m', model_file, '--ctx', context, '--slots', '2', '--kv-disk-dir', disk] };

  let before = 0;
  for (const resume of [false, true]) {
    const server = await startServer(options);
    try {
      const { code, out } = await run(agent, server.url, folder,
        agent.ask(resume ? 'Read the rest.' : 'Read the notes in this folder.', resume, server.url));
      assert.equal(code, 0, out.slice(-400));
      assert.match(out, /All notes are read/);
      const all = decisions(server.log());
      assert.ok(all.length > turns, `${all.length} requests`);
      checkReuse(name + (resume ? ' after a restart' : ''), all, resume ? 0 : 1);
      before = all.at(-1).prompt;
    } finally { await server.stop(); }
  }
  assert.ok(before > 0);
}

const each = process.argv[2] === 'real' ? realPrompt : scriptedTurns;
for (const [name, agent] of Object.entries(agents)) test(`${name}, ${process.argv[2]}`, () => each(name, agent));
await runTests('agents');
