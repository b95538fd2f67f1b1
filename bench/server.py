"""What batching and fairness are worth over HTTP, on one model and this machine.

  bench/server.py -m flash-q2.gguf [--server ./ds4-server] [--tokens 24] [--long 20000] [--runs 3]

Starts the server with 8 slots and measures, alternating, one session that decodes alone and eight that decode
together (tokens a second while all of them do), then the time to the first token of a short request alone and
while a prompt of --long tokens is computed, in decode steps. Prompts are token ids, so any model does. Prints a
Markdown table, with the machine and the command; --json for the samples."""
import argparse
import http.client
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import threading
import time

SESSIONS = 8


class Server:
    def __init__(self, args):
        command = [args.server, '-m', args.model, '--port', '0', '--slots', str(SESSIONS + 1),
                   '--ctx', str(args.long + 2048),
                   '--slot-ctx', '2048'] + args.flag
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.command = ' '.join(command)
        for line in self.process.stderr:
            found = re.search(r'listening on http://127.0.0.1:(\d+)', line)
            if found:
                self.port = int(found.group(1))
                break
        else:
            sys.exit('the server did not start')
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        while self.get('/health') is None:
            time.sleep(0.2)

    def get(self, path):
        c = http.client.HTTPConnection('127.0.0.1', self.port)
        c.request('GET', path)
        answer = c.getresponse()
        return json.load(answer) if answer.status == 200 else None

    def eos_token(self):
        c = http.client.HTTPConnection('127.0.0.1', self.port)
        c.request('POST', '/tokenize', json.dumps({'content': '<\uff5cend\u2581of\u2581sentence\uff5c>',
                                                   'parse_special': True}))
        return json.load(c.getresponse())['tokens'][-1]

    def stop(self):
        self.process.terminate()
        if self.process.wait() != 0:
            sys.exit(f'the server ended with {self.process.returncode}')


class Stream(threading.Thread):
    """One completion; .times holds the moment of each token."""

    def __init__(self, server, prompt, tokens):
        super().__init__(daemon=True)
        self.server, self.prompt, self.tokens, self.times, self.connection = server, prompt, tokens, [], None

    def run(self):
        self.asked = time.monotonic()
        self.connection = http.client.HTTPConnection('127.0.0.1', self.server.port)
        body = {'prompt': self.prompt, 'max_tokens': self.tokens, 'temperature': 0, 'stream': True, 'logprobs': 0,
                'logit_bias': {str(self.server.eos): -100}}         # an answer that ends early is no measure
        try:
            self.connection.request('POST', '/v1/completions', json.dumps(body), {'Content-Type': 'application/json'})
            answer = self.connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(answer.read())
            for line in answer:
                if line.startswith(b'data: {'):
                    scores = json.loads(line[6:])['choices'][0].get('logprobs')
                    self.times += [time.monotonic()] * (len(scores['tokens']) if scores else 0)
        except (OSError, ValueError, AttributeError):
            pass                                        # it was cut off

    def first(self):
        return self.times[0] - self.asked if self.times else float('nan')


def together(server, n, tokens, prompts):
    """Tokens a second of n sessions while all of them decode."""
    streams = [Stream(server, prompts(), tokens) for _ in range(n)]
    for s in streams:
        s.start()
    for s in streams:
        s.join()
    begin, end = max(s.times[0] for s in streams), min(s.times[-1] for s in streams)
    return sum(sum(begin < t <= end for t in s.times) for s in streams) / (end - begin)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('-m', '--model', required=True)
    p.add_argument('--server', default='./ds4-server')
    p.add_argument('--tokens', type=int, default=24)
    p.add_argument('--long', type=int, default=20000)
    p.add_argument('--runs', type=int, default=3)
    p.add_argument('--flag', action='append', default=[], help='one more argument of the server')
    p.add_argument('--json', help='samples go to this file')
    args = p.parse_args()
    server = Server(args)
    vocabulary = server.get('/v1/models')['data'][0]['meta']['vocab_size']
    server.eos = server.eos_token()
    draw = random.Random(1)
    prompts = lambda n=8: [draw.randrange(200, vocabulary) for _ in range(n)]

    one, eight, alone, beside = [], [], [], []
    for i in range(args.runs):
        one.append(together(server, 1, args.tokens, prompts))
        eight.append(together(server, SESSIONS, args.tokens, prompts))
        print(f'run {i + 1}: one {one[-1]:.2f}, eight {eight[-1]:.2f} tokens/s', file=sys.stderr)
    for _ in range(args.runs):
        s = Stream(server, prompts(), 2)
        s.start(), s.join()
        alone.append(s.first())
    long = Stream(server, prompts(args.long), 1)
    long.start()
    time.sleep(10)
    for _ in range(args.runs):
        s = Stream(server, prompts(), 2)
        s.start(), s.join()
        beside.append(s.first())
        slot = next((x for x in server.get('/slots') if x['state'] == 'prefill'), None)
        done = f"{slot['progress']}" if slot else 'NOT'
        print(f'short request beside the long prompt: {beside[-1]:.2f} s, the long prompt stands at {done}',
              file=sys.stderr)
        time.sleep(12)
    still = any(x['state'] == 'prefill' for x in server.get('/slots'))
    long.connection.sock and long.connection.sock.close()

    step = 1 / statistics.median(one)
    spread = lambda x: f'{statistics.median(x):.2f} ({min(x):.2f} to {max(x):.2f})'
    cpu = next((l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')),
               platform.machine()) \
        if os.path.exists('/proc/cpuinfo') else platform.machine()
    print(f'{cpu}, {os.cpu_count()} processors; `{server.command}`; {args.runs} runs, median (least to most)\n')
    print('| what | value |\n|---|---|')
    print(f'| one session decoding, tokens/s | {spread(one)} |')
    print(f'| eight sessions decoding, total tokens/s | {spread(eight)} |')
    print(f'| eight against one | {statistics.median(b / a for a, b in zip(one, eight)):.2f}x |')
    print(f'| first token of a short request alone, s | {spread(alone)} |')
    print(f'| while {args.long} prompt tokens are computed, s | {spread(beside)} |')
    waits = [max(0, b - statistics.median(alone)) / step for b in beside]
    print(f'| the same in decode steps of {step:.2f} s, of {len(prompts())} prompt tokens | {spread([b / step for b in beside])} |')
    print(f'| of that beyond what it takes alone, in decode steps | {spread(waits)} |')
    if not still:
        print('\nThe long prompt was finished before the last short request: the waits above are too good.')
    if args.json:
        json.dump({'one': one, 'eight': eight, 'alone': alone, 'beside': beside, 'command': server.command},
                  open(args.json, 'w'))
    server.stop()


main()
