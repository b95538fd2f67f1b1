"""Success rates of the bundled model on questions that were held out from its training, asked
through the real engine. Standard library only.

    eval.py [--ds4 ./ds4] [--model FILE] [--count 100] [--kinds fact,sum] [--json] [--show 3]

Each example is a rendered prompt of corpus.py, run as `ds4 --raw --prompt-file F --temp 0`. What
counts is the answer behind the reasoning, byte for byte; tool calls are compared as a tool name
and parsed arguments, extracted JSON as parsed JSON. Exit code 1 when a run of the engine failed.
"""

import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile

import corpus
import protocol

CALL = re.compile(rf'<{protocol.DSML}invoke name="([^"]*)">\n(.*?)</{protocol.DSML}invoke>', re.S)
PARAMETER = re.compile(rf'<{protocol.DSML}parameter name="([^"]*)" string="(true|false)">(.*?)</{protocol.DSML}parameter>', re.S)


def calls(text):
    """the calls of an answer as comparable values, in order"""
    out = []
    for name, body in CALL.findall(text):
        args = {}
        for key, is_text, value in PARAMETER.findall(body):
            args[key] = value if is_text == "true" else parsed(value)
        out.append((name, args))
    return out


def parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def answer_of(output, think):
    """what stands behind the reasoning"""
    if think:
        _, mark, output = output.partition(protocol.ENDTHINK)
        if not mark:
            return ""
    return output.replace(protocol.EOS, "")


def right(kind, want, got):
    if kind == "tool":
        return calls(got) == calls(want)
    if kind in ("extract", "format"):
        return parsed(got.strip()) == parsed(want)
    return got.strip() == want.strip()


def run_engine(args, prompt):
    """-> generated text, or None when the engine failed"""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8", newline="") as f:
        f.write(prompt)
        f.flush()
        command = [args.ds4, "-m", args.model, "--temp", "0", "--raw", "--prompt-file", f.name, "-n", "160",
                   "-c", "4096", "-t", "1", "--json", "-q"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    result = parsed(done.stdout.decode(errors="replace"))
    if done.returncode or not isinstance(result, dict):
        print(f"eval.py: exit code {done.returncode}: {done.stderr.decode(errors='replace').strip()}", file=sys.stderr)
        return None
    reasoning, content = result.get("reasoning") or "", result.get("content") or ""
    return reasoning + protocol.ENDTHINK + content if reasoning else content


def evaluate(args, ask):
    """-> {kind: {mode: rate in %}}, number of failed runs; `ask` maps a prompt to generated text.
    Tool calls are counted once more by the number of tools offered."""
    hits, failed = {}, 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for kind in args.kinds:
            for mode, think in (("think", True), ("direct", False)):
                examples = corpus.examples(kind, think, args.count)
                outputs = list(pool.map(ask, [e["prompt"] for e in examples]))
                shown = 0
                for e, output in zip(examples, outputs):
                    failed += output is None
                    ok = output is not None and right(kind, e["answer"], answer_of(output, think))
                    for row in [kind] + [f"{kind}, {e['tools']} offered"] * (kind == "tool"):
                        hits.setdefault(row, {}).setdefault(mode, []).append(ok)
                    if not ok and shown < args.show:
                        shown += 1
                        print(f"--- {kind}, {mode}\n{e['prompt'][-160:]}\nwant {e['target']!r}\ngot  {output!r}", file=sys.stderr)
    return {row: {mode: round(100.0 * sum(v) / len(v), 1) for mode, v in modes.items()}
            for row, modes in sorted(hits.items(), key=lambda h: (args.kinds.index(h[0].split(",")[0]), h[0]))}, failed


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--ds4", default="./ds4")
    a.add_argument("--model", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../models/tiny/ds4-tiny.gguf"))
    a.add_argument("--count", type=int, default=100, help="examples per kind and mode")
    a.add_argument("--kinds", type=lambda s: s.split(","), default=corpus.KINDS)
    a.add_argument("--jobs", type=int, default=2, help="engine processes at a time")
    a.add_argument("--show", type=int, default=0, help="wrong answers to print per kind and mode")
    a.add_argument("--json", action="store_true")
    args = a.parse_args()
    table, failed = evaluate(args, lambda prompt: run_engine(args, prompt))
    if args.json:
        print(json.dumps({"count": args.count, "failed_runs": failed, "rates": table}, indent=1))
    else:
        print(f"{'kind':16s}{'think':>8s}{'direct':>8s}   of {args.count} held-out examples each, in %")
        for kind, modes in table.items():
            print(f"{kind:16s}{modes['think']:8.1f}{modes['direct']:8.1f}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
