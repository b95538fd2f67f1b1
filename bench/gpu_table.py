"""The table of bench/gpu.sh.

  gpu_table.py same A.json B.json      are the greedy tokens of two --dump-logprobs files equal?
  gpu_table.py table --dir DIR --json FILE --md FILE ...      checks and speed records to one record and a table

Aims are those of one H200 with the q2 file of the full shape; on other cards they stand there to compare."""
import argparse
import csv
import json
import os
import statistics
import sys


def same(a, b):
    tokens = [[s['selected']['id'] for s in json.load(open(f))['steps']] for f in (a, b)]
    for i, (x, y) in enumerate(zip(*tokens)):
        if x != y:
            sys.exit(f'step {i}: token {x} here, {y} there')
    if len(tokens[0]) != len(tokens[1]) or not tokens[0]:
        sys.exit(f'{len(tokens[0])} tokens here, {len(tokens[1])} there')
    print(f'{len(tokens[0])} tokens are equal')


def records(path):
    """By depth; a file that is not there has none."""
    found = {}
    if os.path.exists(path):
        for line in open(path):
            r = json.loads(line)
            if r.get('cell', {}).get('mode') == 'speed':
                found[r['cell']['depth']] = r
    return found


def rate(r):
    return r['stat']['p50'] if r else None


def spread(r):
    if not r:
        return 'not measured'
    s = r['stat']
    return f"{s['p50']:.1f} +- {s['mad']:.1f} (n={s['n']}, {s['min']:.1f} to {s['max']:.1f})"


def verdict(value, least, aim, lower=False):
    if value is None:
        return 'not measured'
    good = (lambda limit: value <= limit) if lower else (lambda limit: value >= limit)
    return 'aim met' if good(aim) else 'reached' if good(least) else 'MISSED'


def median_of(path, column):
    if not os.path.exists(path):
        return None
    values = []
    for row in csv.reader(open(path), skipinitialspace=True):
        try:
            values.append(float(row[column].split()[0]))
        except (IndexError, ValueError):
            continue
    return statistics.median(values) if values else None


# Of cuda_record.c, cuda_driver_work.c and engine.c: what a driver refused, and is done slower.
SLOWER = ('can not be recorded: ', 'letting kernels begin early', 'given one operation after another')


def warnings(folder):
    said = []
    for name in ('decode', 'prefill', 'sessions'):
        path = os.path.join(folder, name + '.log')
        if os.path.exists(path):
            said += [line.strip() for line in open(path, errors='replace') if any(s in line for s in SLOWER)]
    return list(dict.fromkeys(said))


def table(o):
    decode, prefill, sessions = (records(os.path.join(o.dir, f + '.json')) for f in ('decode', 'prefill', 'sessions'))
    checks = [dict(zip(('result', 'name', 'said'), line.rstrip('\n').split('\t')))
              for line in open(os.path.join(o.dir, 'checks'))]
    card = dict(zip(*list(csv.reader(open(os.path.join(o.dir, 'card.csv')), skipinitialspace=True))[:2]))
    short, near, far = (decode.get(d) for d in (0, o.near, o.far))
    chunk, many = prefill.get(0), sessions.get(o.near // 4)
    loss = 100 * (rate(far) / rate(near) - 1) if near and far else None
    load = next((r['model']['load_s'] for r in (short, chunk, many) if r), None)
    whole = (o.shape, o.layers, o.chunk, o.near, o.far, o.sessions) == ('flash', 43, 4096, 2048, 65536, 16)
    sizes = {name: getattr(o, name) for name in ('shape', 'layers', 'chunk', 'near', 'far', 'sessions')}
    rows = [
        ('decode, short context, t/s', spread(short), '150 / 300', verdict(rate(short), 150, 300)),
        ('decode at 64k tokens against 2k', 'not measured' if loss is None
         else f'{loss:+.1f} % ({spread(far)} against {spread(near)})',
         '-10 % / -5 %', verdict(loss, -10, -5)),
        ('prefill, 4k chunk, t/s', spread(chunk), '3,000 / 8,000', verdict(rate(chunk), 3000, 8000)),
        ('16 sessions decoding, total t/s', spread(many), '500 / 1,000', verdict(rate(many), 500, 1000)),
        ('load from page cache, s', 'not measured' if load is None else f'{load:.1f}', '60 / 30',
         verdict(load, 60, 30, lower=True)),
    ]
    record = {
        'schema': 1, 'card': card, 'sizes': sizes, 'commit': o.commit, 'command': 'bench/gpu.sh', 'seconds': o.seconds,
        'checks': checks, 'warnings': warnings(o.dir),
        'speed': {'decode': list(decode.values()), 'prefill': list(prefill.values()),
                  'sessions': list(sessions.values())},
        'load_s': load, 'watts_median': median_of(os.path.join(o.dir, 'smi.csv'), 1),
        'table': [dict(zip(('what', 'measured', 'reach_aim', 'verdict'), r)) for r in rows],
    }
    with open(o.json, 'w') as f:
        json.dump(record, f, indent=1)
        f.write('\n')
    with open(o.md, 'w') as f:
        f.write(f"# {card.get('name', 'a card')}, driver {card.get('driver_version', '?')}\n\n")
        f.write(f"`bench/gpu.sh` at {o.commit}, {o.seconds} s. Median +- median absolute deviation.\n")
        if not whole:
            f.write(f"NOT THE FULL SHAPE AND SIZES, not comparable with the aims: {', '.join(f'{k} {v}' for k, v in sizes.items())}.\n")
        f.write('\n| q2, full shape | measured | reach / aim | |\n|---|---|---|---|\n')
        for r in rows:
            f.write('| ' + ' | '.join(r if whole else r[:2] + ('', '')) + ' |\n')
        f.write('\n| check | result | |\n|---|---|---|\n')
        for c in checks:
            f.write(f"| {c['name']} | {c['result']} | {c['said']} |\n")
        if record['warnings']:
            f.write('\nSlower than it could be:\n\n' + ''.join(f'- {w}\n' for w in record['warnings']))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest='what', required=True)
    s = sub.add_parser('same')
    s.add_argument('files', nargs=2)
    t = sub.add_parser('table')
    for name in ('dir', 'json', 'md', 'commit', 'shape'):
        t.add_argument('--' + name, required=True)
    for name in ('layers', 'chunk', 'near', 'far', 'sessions', 'seconds'):
        t.add_argument('--' + name, type=int, required=True)
    o = p.parse_args()
    if o.what == 'same':
        same(*o.files)
    else:
        table(o)


if __name__ == '__main__':
    main()
