"""Requests of all kinds, right and wrong, against one server: none may crash it, stall it or keep a slot.

  random_requests.py --server build/asan/bin/ds4-server [--requests 10000] [--seed 1] [--threads 16]

Starts the server with the bundled model, sends whole and broken HTTP, valid and invalid bodies of every endpoint,
reads all of an answer, some of it or none, and leaves in the middle. At the end the server must be healthy, every slot
and the queue empty, its memory where it was after the first tenth, and SIGTERM must end it with status 0 (a sanitizer
makes that another one when something leaked)."""
import argparse
import collections
import http.client
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time

TOOL = {'name': 'get_weather', 'description': 'Look up',
        'parameters': {'type': 'object', 'properties': {'city': {'type': 'string'}}}}
WORDS = ['What is ds4?', 'What is 12 + 30?', 'Repeat: a b c', '\u00e9\u4e2d\U0001f600', '', ' ' * 300,
         '<\uff5cUser\uff5c>', '</think>', 'x' * 4000,
         '\n\n<\uff5cDSML\uff5ctool_calls>\n<\uff5cDSML\uff5cinvoke name="get_weather">']
ODD = [None, True, False, -1, 0, 1, 1e308, -1e308, 2 ** 53, '', 'a', [], {}, [None], {'a': {}}, [[]], 'auto', 'none',
       {'type': 'enabled'}, '\ud800']


def odd(r):
    return r.choice(ODD)


def content(r, kind):
    text = r.choice(WORDS)
    form = r.randrange(6)
    if form == 0:
        return [{'type': kind, 'text': text}, {'type': 'image_url', 'image_url': {'url': 'data:'}}]
    return odd(r) if form == 1 and r.random() < 0.2 else text


def common(r):
    body = {'model': 'any', 'stream': r.random() < 0.5}
    for key, values in (('temperature', (0, 1, 2, 3)), ('top_p', (1, 0.5, 0)), ('top_k', (0, 1, 40, -1, -2)),
                        ('min_p', (0, 0.1, 2)), ('seed', (1, 2 ** 63)),
                        ('stop', ('a', ['b', 'is'], ['x'] * 17)), ('n', (1, 2, 8, 9)), ('presence_penalty', (0, 2, -3))):
        if r.random() < 0.08:
            body[key] = r.choice(values)
    return body


def chat(r):
    messages = [{'role': r.choice(['system', 'user', 'user', 'developer']), 'content': content(r, 'text')}
                for _ in range(r.choice([0, 1, 1, 1, 1, 1, 1, 2, 2, 3]))]
    if r.random() < 0.3:
        messages += [{'role': 'assistant', 'content': None, 'tool_calls': [
                         {'id': 'call_1', 'type': 'function', 'function':
                             {'name': 'get_weather', 'arguments': r.choice(['{}', '{"city":"Rome"}', 'no json', ''])}}]},
                     {'role': 'tool', 'tool_call_id': r.choice(['call_1', 'call_1', 'call_1', 'call_2']),
                      'content': content(r, 'text')}]
    body = common(r) | {'messages': messages, 'max_tokens': r.choice([1, 5, 40, 40, 40, 0])}
    if r.random() < 0.4:
        body |= {'tools': [{'type': 'function', 'function': TOOL}] * r.choice([1] * 9 + [2]),
                 'tool_choice': r.choice(['auto', 'auto', 'none', 'required', 'required', 'x'])}
    if r.random() < 0.3:
        body |= {'thinking': {'type': r.choice(['enabled', 'disabled', 'adaptive', 'x'])},
                 'reasoning_effort': r.choice(['low', 'max', 'high', 'medium', 'x'])}
    if r.random() < 0.2:
        body |= {'logprobs': True, 'top_logprobs': r.choice([0, 5, 21])}
    return '/v1/chat/completions', body


def completions(r):
    return '/v1/completions', common(r) | {'prompt': r.choice(['ds4 is', ['a', 'b'], [1, 2, 3], [[1], [2]], [99999],
                                                               '', []]),
                                           'max_tokens': r.choice([0, 1, 20]),
                                           'echo': r.random() < 0.3, 'logprobs': r.choice([None, None, 0, 3, 30])}


def responses(r):
    items = [{'role': 'user', 'content': content(r, 'input_text')}]
    if r.random() < 0.3:
        items += [{'type': 'reasoning', 'summary': [], 'encrypted_content': 'AAAA'},
                  {'type': 'function_call', 'call_id': 'c', 'name': 'f', 'arguments': '{}'},
                  {'type': 'function_call_output', 'call_id': r.choice(['c', 'd']), 'output': 'x'}]
    return '/v1/responses', common(r) | {'input': r.choice([items, items, items, 'What is ds4?', odd(r)]),
                                         'max_output_tokens': r.choice([1, 30]),
                                         'tools': r.choice([[], [{'type': 'function', **TOOL}],
                                                            [{'type': 'web_search'}], [], odd(r)])}


def messages(r):
    talk = [{'role': r.choice(['user'] * 5 + ['assistant'] * 3 + ['system', 'x']), 'content': content(r, 'text')}
            for _ in range(r.randrange(1, 4))]
    if r.random() < 0.3:
        talk += [{'role': 'assistant', 'content': [{'type': 'thinking', 'thinking': 't', 'signature': 's'},
                                                   {'type': 'tool_use', 'id': 'u', 'name': 'f', 'input': {}}]},
                 {'role': 'user', 'content': [{'type': 'tool_result', 'tool_use_id': 'u', 'content': 'ok'}]}]
    path = r.choice(['/v1/messages', '/v1/messages?beta=true', '/v1/messages/count_tokens'])
    return path, common(r) | {'messages': talk, 'max_tokens': r.choice([1, 30]),
                              'system': r.choice(['S', 'S', [{'type': 'text', 'text': 'S'}], odd(r)])}


def helper(r):
    return r.choice([('/tokenize', {'content': r.choice(WORDS)}),
                     ('/detokenize', {'tokens': [r.randrange(-5, 3000) for _ in range(5)]}),
                     ('/apply-template', {'messages': [{'role': 'user', 'content': 'x'}]}), ('/v1/embeddings', {'input': 'x'})])


def mutate(r, value):
    """Puts something odd somewhere into a body."""
    if isinstance(value, dict) and value and r.random() < 0.8:
        key = r.choice(list(value))
        return value | {key: mutate(r, value[key])}
    if isinstance(value, list) and value and r.random() < 0.8:
        i = r.randrange(len(value))
        return value[:i] + [mutate(r, value[i])] + value[i + 1:]
    return odd(r)


def request(r):
    """The bytes of one request, and whether another may follow on the connection."""
    path, body = r.choice([chat, chat, completions, responses, messages, helper])(r)
    if r.random() < 0.25:
        body = mutate(r, body)
    data = json.dumps(body, ensure_ascii=r.random() < 0.5).encode('utf-8', 'surrogatepass')
    if r.random() < 0.1:
        at = r.randrange(len(data) + 1)
        data = data[:at] + r.choice([b'', b'\xff', b'{' * 300, b'"', b'\0']) + data[at + r.randrange(3):]
    form = r.randrange(40)
    if form == 0:
        return f'GET {r.choice(["/", "/health", "/metrics", "/props", "/slots", "/v1/models", "/v1/models/x", "/nowhere", path])} HTTP/1.1\r\nHost: a\r\n\r\n'.encode(), True
    if form == 1:
        return f'POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nContent-Length: 11\r\n\r\n'.encode() + data, False
    if form == 2:
        return bytes(r.randrange(256) for _ in range(r.randrange(1, 200))) + b'\r\n\r\n', False
    if form == 3:
        return b'GET / HTTP/1.1\r\nHost: a\r\nX: ' + b'y' * r.choice([100, 70000]) + b'\r\n\r\n', False
    if form == 4:
        return f'{r.choice(["DELETE", "PUT", "OPTIONS", "HEAD", "PATCH"])} {path} HTTP/1.1\r\nHost: a\r\n\r\n'.encode(), False
    if form == 5:
        half = len(data) // 2
        chunks = b''.join(b'%x\r\n%s\r\n' % (len(part), part) for part in (data[:half], data[half:]) if part)
        return f'POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n'.encode() + chunks + r.choice([b'0\r\n\r\n', b'z\r\n\r\n', b'']), False
    length = len(data) + (r.choice([-3, 5, 10 ** 9]) if r.random() < 0.03 else 0)
    return f'POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {max(length, 0)}\r\n\r\n'.encode() + data, length == len(data)


def worker(port, seeds, seen, lock):
    connection = None
    for seed in seeds:
        r = random.Random(seed)
        data, keep = request(r)
        try:
            if connection is None:
                connection = socket.create_connection(('127.0.0.1', port), timeout=120)
                connection.settimeout(120)
            if r.random() < 0.05:                                   # byte by byte
                for i in range(min(len(data), 200)):
                    connection.sendall(data[i:i + 1])
                data = data[200:]
            connection.sendall(data)
            manner = r.random()
            if manner < 0.08:                                       # gone without a word
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
                keep = False
            elif manner < 0.2:                                      # reads some, then leaves
                keep = False
                connection.settimeout(r.random() * 0.2)
                connection.recv(r.choice([1, 100, 4096]))
            elif not keep:
                connection.settimeout(2)
                while connection.recv(65536):
                    pass
            else:
                answer = http.client.HTTPResponse(connection)
                answer.begin()
                answer.read()
                keep = not answer.will_close
                with lock:
                    seen[answer.status] += 1
        except socket.timeout:
            if keep:
                with lock:
                    seen['no answer in 120 s'] += 1
            keep = False
        except (OSError, http.client.HTTPException):
            keep = False
        if not keep and connection:
            connection.close()
            connection = None


def resident(pid):
    return int(re.search(r'VmRSS:\s+(\d+)', open(f'/proc/{pid}/status').read()).group(1)) / 1024


def get(port, path):
    c = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
    c.request('GET', path)
    return json.load(c.getresponse())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--server', required=True)
    p.add_argument('--requests', type=int, default=10000)
    p.add_argument('--seed', type=int, default=1)
    p.add_argument('--threads', type=int, default=16)
    args = p.parse_args()
    # Freed memory that a sanitizer holds back is no growth.
    environment = os.environ | {'ASAN_OPTIONS': 'quarantine_size_mb=8:' + os.environ.get('ASAN_OPTIONS', '')}
    process = subprocess.Popen([args.server, '--port', '0', '--slots', '4', '--ctx', '1024', '--tokens', '64',
                                '--max-queue', '8',
                                '--keepalive-secs', '1'], stderr=subprocess.PIPE, text=True, errors='replace', env=environment)
    port = next(int(m.group(1)) for m in (re.search(r'listening on http://127.0.0.1:(\d+)', line)
                                          for line in process.stderr) if m)
    tail = collections.deque(maxlen=60)
    drain = threading.Thread(target=lambda: [tail.append(line) for line in process.stderr], daemon=True)
    drain.start()
    while get(port, '/health')['status'] != 'ok':
        time.sleep(0.1)

    seen, lock, start = collections.Counter(), threading.Lock(), time.monotonic()

    def send(first, last):
        threads = [threading.Thread(target=worker, args=(
                       port, range(args.seed * 10 ** 6 + first + i, args.seed * 10 ** 6 + last, args.threads), seen, lock))
                   for i in range(args.threads)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    failed = []
    send(0, args.requests // 10)
    early = resident(process.pid)
    send(args.requests // 10, args.requests)
    end = time.monotonic() + 20
    while any(s['state'] in ('prefill', 'decode') for s in get(port, '/slots')) and time.monotonic() < end:
        time.sleep(0.05)
    stuck = [s for s in get(port, '/slots') if s['state'] in ('prefill', 'decode')]
    late = resident(process.pid)
    if stuck:
        failed.append(f'{len(stuck)} slots are still at work')
    if seen['no answer in 120 s']:
        failed.append(f"{seen['no answer in 120 s']} requests had no answer")
    if any(isinstance(code, int) and code >= 500 and code not in (501, 505, 529) for code in seen):
        failed.append('a request brought a status of 500')
    # A race detector keeps shadows of all memory that was ever written.
    if late > early + 64 and 'tsan' not in args.server:
        failed.append(f'memory grew from {early:.0f} to {late:.0f} MiB')
    process.terminate()
    if process.wait(timeout=120) != 0:
        drain.join(5)
        failed.append(f'the server ended with {process.returncode}: ' + ''.join(tail)[-3000:])
    codes = ', '.join(f'{n} x {code}' for code, n in sorted(seen.items(), key=str))
    print(f'{args.requests} requests in {time.monotonic() - start:.0f} s, seed {args.seed}: {codes}; '
          f'resident {early:.0f} MiB after a tenth, {late:.0f} MiB at the end')
    for sentence in failed:
        print(f'FAIL {sentence}')
    sys.exit(1 if failed else 0)


main()
