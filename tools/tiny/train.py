"""Trains the bundled model on two CPU cores, as two data-parallel processes.

    train.py --out DIR --kernels kernels.so --minutes 80 [--resume] [--lr 0.5]

DIR receives tokenizer.json (once), state.pt (at every evaluation, about every five minutes) and
log.txt. A run is planned by the clock: learning rate, row length and mix of turns follow the
share of the minutes used, so a slower machine gets the same schedule with fewer tokens. --resume goes
on from state.pt; when its minutes are used up, --minutes plans a further round whose learning
rate starts at --lr times the usual one and falls to zero.
"""

import argparse
import json
import math
import os
import random
import time

import torch
import torch.multiprocessing as mp

import corpus
import model
import protocol
import tokenizer

PROCESSES, TOKENS = 2, 1024                # tokens per process and step
MUON_LR, ADAM_LR = 0.02, 0.004
LONG = 0.78                                # share of the run after which rows are long
AVERAGE = 0.995                            # the model that is tested and exported is a running mean
HERE = os.path.dirname(os.path.abspath(__file__))

EARLY = {"fact": 1.2, "sum": 0.8, "hard": 0.1, "copy": 2.2, "lookup": 2.2, "recall": 0.6, "extract": 1.0, "off-topic": 0.6}
LATE = {"fact": 2.4, "sum": 2.2, "hard": 0.15, "copy": 0.4, "lookup": 0.4, "recall": 0.3, "extract": 1.4, "off-topic": 0.7}


# ---- data -----------------------------------------------------------------------------

def make_tokenizer(path, vocab_size):
    """BPE on a sample of rows. The fixed protocol texts are over-weighted, so that they become short."""
    if not os.path.exists(path):
        r, c, texts = random.Random(7), corpus.Corpus(), []
        for i in range(4000):
            def full(pieces):
                return sum(len(p) for p, _ in pieces) > 1200

            kind = "tool" if i % 3 == 0 else "format" if i % 10 == 1 else "plain"
            for text, _ in c.row(r, kind, LATE, False, 3, full):
                for part in tokenizer.CONTROLS.split(text)[::2]:
                    texts.append((part, 1))
        fixed = tokenizer.CONTROLS.split(protocol.PREAMBLE)[::2] + [protocol.POSTAMBLE, protocol.FORMAT]
        texts += [(part, 2000) for part in fixed]
        texts += [(f.answer, 30) for f in c.facts] + [(f"The question is about {f.topic}.", 30) for f in c.facts]
        merges = tokenizer.train_merges(texts, vocab_size - 256 - len(tokenizer.FIRST) - len(tokenizer.LAST))
        tokenizer.Tokenizer(merges, vocab_size).save(path)
    return tokenizer.load(path)


class Rows:
    def __init__(self, tok):
        self.tok, self.corpus = tok, corpus.Corpus(tok.letter_tokens())

    def one(self, r, kind, mix, real, length):
        ids, weights, done = [], [], [0]

        def full(pieces):
            for text, w in pieces[done[0]:]:
                part = self.tok.encode(text)
                ids.extend(part)
                weights.extend([w] * len(part))
            done[0] = len(pieces)
            return len(ids) > length

        self.corpus.row(r, kind, mix, real, 1 if length < 256 else 2 if length < 512 else 3, full)
        return ids[:length + 1], weights[:length + 1]

    def batch(self, seed, progress):
        """-> ids [B,T+1], weights [B,T+1]; `seed` fixes it, `progress` in 0..1 chooses its make-up"""
        r = random.Random(seed)
        length, real = 256, False                    # real: with the whole tool block of the chat template
        if progress < 0.12:
            length = 128
        elif progress > LONG:
            length = r.choice([512] * 5 + [1024] * 10 + [2048])
            real = length > 512 or r.random() < 0.4
        elif r.random() < 0.12:
            length, real = 512, True
        mix, tool = (EARLY, 0.20) if progress < 0.22 else (LATE, 0.40)
        if progress > LONG:
            tool = 0.75
        elif real:
            tool = 0.8
        rows = []
        for _ in range(max(1, TOKENS // length)):
            x = r.random()
            kind = "tool" if x < tool else "format" if x < tool + 0.07 and length > 128 else "plain"
            rows.append(self.one(r, kind, mix, real, length))
        return torch.tensor([i for i, _ in rows]), torch.tensor([w for _, w in rows])


# ---- optimiser ---------------------------------------------------------------------------

def is_muon(name):
    """inner matrices: all but embedding, output, router, position bias and hyper-connections"""
    return name.startswith("layers.") and (name.endswith((".w13", ".w2")) or (
        ".attn." in name and name.endswith(".weight") and "norm" not in name))


def adam_scale(name):
    if name.startswith("embed") or name.endswith(("_base", "_scale", "attn_sink")):
        return 1.0
    return 0.3 if "hc_" in name else 0.5


def orthogonal(g):
    """Newton-Schulz: the nearest orthogonal matrix, roughly; g [..., rows, cols]"""
    flip = g.shape[-2] > g.shape[-1]
    x = g.transpose(-2, -1) if flip else g
    x = x / (x.flatten(-2).norm(dim=-1)[..., None, None] + 1e-7)
    for _ in range(5):
        a = x @ x.transpose(-2, -1)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.transpose(-2, -1) if flip else x


class Optimiser:
    """Each process updates its own share of the tensors; states lie in shared memory."""

    def __init__(self, params, trained, cfg):
        self.params, self.cfg = params, cfg
        self.m = {n: torch.zeros_like(params[n]).share_memory_() for n in trained}
        self.v = {n: torch.zeros_like(params[n]).share_memory_() for n in trained if not is_muon(n)}
        self.mean = {n: params[n].detach().clone().share_memory_() for n in trained}
        cost, self.share = [0.0] * PROCESSES, [[] for _ in range(PROCESSES)]
        for n in sorted(trained, key=lambda n: -params[n].numel()):
            k = cost.index(min(cost))
            self.share[k].append(n)
            cost[k] += params[n].numel() * (4 if is_muon(n) else 1)

    def matrices(self, name, t):
        """a tensor as the batch of matrices that Muon treats separately"""
        if name.endswith(".w13"):
            return t.view(-1, t.shape[-2] // 2, t.shape[-1])
        if name.endswith("wo_a.weight"):
            return t.view(self.cfg.G, -1, t.shape[-1])
        return t

    @torch.no_grad()
    def step(self, rank, grads, step, lr):
        keep = min(AVERAGE, step / (step + 10))
        own = {n: sum(g[n] for g in grads) / PROCESSES for n in self.share[rank]}
        norm = math.sqrt(sum(g.square().sum().item() for n, g in own.items() if not is_muon(n)))
        clip = min(1.0, 1.0 / (norm + 1e-6))
        for n, g in own.items():
            p, m = self.params[n].data, self.m[n]
            if is_muon(n):
                beta = 0.85 + 0.10 * min(1.0, step / 200)
                m.mul_(beta).add_(g, alpha=1 - beta)
                u = orthogonal(self.matrices(n, g.lerp(m, beta)))
                rate = lr * MUON_LR * max(1.0, u.shape[-2] / u.shape[-1]) ** 0.5
                p.mul_(1 - lr * MUON_LR * 0.05)
                self.matrices(n, p).sub_(u, alpha=rate)
            else:
                g = g * clip
                rate = lr * ADAM_LR * adam_scale(n)
                m.lerp_(g, 0.1)
                self.v[n].lerp_(g.square(), 0.05)
                if p.dim() > 1:
                    p.mul_(1 - rate * 0.01)
                hat = m / (1 - 0.9 ** step)
                p.sub_(hat / ((self.v[n] / (1 - 0.95 ** step)).sqrt() + 1e-10), alpha=rate)
            self.mean[n].lerp_(p, 1 - keep)


# ---- evaluation ----------------------------------------------------------------------------

def evaluation_set(tok, count):
    """[(kind/mode, ids, start of the target)]"""
    out = []
    for kind in corpus.KINDS:
        for think in (True, False):
            for e in corpus.examples(kind, think, count):
                head = tok.encode(e["prompt"])
                out.append((f"{kind}/{'think' if think else 'direct'}", head + tok.encode(e["target"] + protocol.EOS), len(head)))
    return out


@torch.no_grad()
def exact_matches(m, items):
    """teacher-forced: true where every token of the target is the best one, as greedy decoding would find"""
    hits = [False] * len(items)
    order = sorted(range(len(items)), key=lambda i: len(items[i][1]))
    for at in range(0, len(order), 8):
        group = order[at:at + 8]
        length = max(len(items[i][1]) for i in group)
        ids = torch.zeros(len(group), length, dtype=torch.long)
        for row, i in enumerate(group):
            ids[row, :len(items[i][1])] = torch.tensor(items[i][1])
        best = m.logits(ids).argmax(-1).view(len(group), length)
        for row, i in enumerate(group):
            _, seq, start = items[i]
            hits[i] = best[row, start - 1:len(seq) - 1].tolist() == seq[start:]
    return hits


def rates(items, hits):
    table = {}
    for (name, _, _), hit in zip(items, hits):
        table.setdefault(name, []).append(hit)
    return {name: 100.0 * sum(v) / len(v) for name, v in table.items()}


def rate_lines(table):
    kinds = list(dict.fromkeys(k.split("/")[0] for k in table))
    return "".join(f"  {k:12s} think {table[k + '/think']:5.1f}   direct {table[k + '/direct']:5.1f}\n" for k in kinds)


# ---- the run ---------------------------------------------------------------------------------

def learning_rate(step, progress, peak):
    """warm-up of 60 steps, constant, linear to zero over the last 40 %; later rounds fall all the way"""
    if peak != 1.0:
        return peak * max(0.0, 1 - progress)
    return min(1.0, step / 60) * min(1.0, max(0.0, 1 - progress) / 0.4)


def work(rank, args, cfg, params, opt, grads, shared, barrier):
    """shared: step, seconds used, round, wants evaluation; hits and router counts beside it"""
    torch.set_num_threads(1)
    os.nice(5)
    tok = tokenizer.load(os.path.join(args.out, "tokenizer.json"))
    data, m, mean = Rows(tok), model.Model(cfg, params), model.Model(cfg, {**params, **opt.mean})
    items = evaluation_set(tok, args.examples)
    mine = [i for i in range(len(items)) if i % PROCESSES == rank]
    for n, g in grads[rank].items():
        params[n].grad = g
    state, hits, counts, losses = shared
    log = open(os.path.join(args.out, "log.txt"), "a") if rank == 0 else None
    last, total, since, tokens, begin = time.time(), args.minutes * 60, 0.0, 0, time.time()

    while True:
        step, used, round_no = int(state[0]), state[1].item(), int(state[2])
        progress = used / total
        final = progress >= 1
        if state[3] > 0:
            hits[mine] = torch.tensor(exact_matches(mean, [items[i] for i in mine])).float()
            barrier.wait()
            if rank == 0:
                text = (f"step {step}  {used / 60:.1f} min  round {round_no}  {int(state[4]) / 1e6:.2f} M tokens  loss {losses.mean():.4f}  "
                        f"{tokens / max(time.time() - begin, 1):.0f} tok/s\n" + rate_lines(rates(items, hits.tolist())))
                print(text, flush=True)
                print(text, file=log, flush=True)
                state[3] = 0
                save(args.out, params, opt, state)
                begin, tokens, since, last = time.time(), 0, 0.0, time.time()
            barrier.wait()
            if final:
                return
        at = 1.0 if round_no else progress
        ids, weights = data.batch(f"{args.seed} {round_no} {step} {rank}", at)
        loss = torch.nn.functional.cross_entropy(m.logits(ids[:, :-1]), ids[:, 1:].flatten(), reduction="none")
        w = weights[:, 1:].flatten()
        loss = (loss * w).sum() / w.sum()
        for g in grads[rank].values():
            g.zero_()
        loss.backward()
        losses[rank].lerp_(loss.detach(), 0.02)
        for l, chosen in m.loads.items():
            counts[rank, l] += torch.bincount(chosen.flatten(), minlength=cfg.E)
        barrier.wait()
        opt.step(rank, grads, step + 1, learning_rate(step + 1, progress, args.lr if round_no else 1.0))
        if rank == 0:
            if step % 10 == 9:
                balance(cfg, params, counts)
            now = time.time()
            state[0] += 1
            state[1] += now - last
            state[4] += PROCESSES * ids[:, 1:].numel()
            since += now - last
            tokens += PROCESSES * ids[:, 1:].numel()
            last = now
            if since > args.every * 60 or state[1] >= total:
                state[3] = 1
            if step % 100 == 0:
                print(f"step {step} loss {losses.mean():.3f} {tokens / (now - begin):.0f} tok/s", flush=True)
        barrier.wait()


def balance(cfg, params, counts):
    """moves the router's selection bias towards equal load"""
    load = counts.sum(0)
    for l in range(cfg.n_hash, cfg.L):
        params[f"layers.{l}.ffn.gate.bias"] += 0.02 * (1 - load[l] / load[l].mean()).clamp(-1, 1)
    counts.zero_()


def save(folder, params, opt, state):
    path = os.path.join(folder, "state.pt")
    torch.save({"params": params, "mean": opt.mean, "m": opt.m, "v": opt.v, "state": state}, path + ".new")
    os.replace(path + ".new", path)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--out", required=True)
    a.add_argument("--kernels", required=True)
    a.add_argument("--minutes", type=float, default=80)
    a.add_argument("--every", type=float, default=5, help="minutes between evaluations")
    a.add_argument("--examples", type=int, default=40, help="held-out examples per kind and mode")
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--resume", action="store_true")
    a.add_argument("--new-round", action="store_true", help="with --resume: plan --minutes more")
    a.add_argument("--lr", type=float, default=0.5, help="learning rate factor of a further round")
    args = a.parse_args()
    os.makedirs(args.out, exist_ok=True)
    torch.set_num_threads(1)
    model.load_kernels(args.kernels)
    cfg = model.Config(json.load(open(os.path.join(HERE, "config.json"))))
    make_tokenizer(os.path.join(args.out, "tokenizer.json"), cfg.V)

    state = torch.zeros(5, dtype=torch.float64)
    saved = torch.load(os.path.join(args.out, "state.pt")) if args.resume else None
    params = saved["params"] if saved else model.init_params(cfg, args.seed)
    params = {n: t.detach().clone().share_memory_() for n, t in params.items()}
    trained = [n for n, t in params.items() if t.is_floating_point() and ".indexer." not in n and not n.endswith("gate.bias")]
    opt = Optimiser(params, trained, cfg)
    if saved:
        for n in opt.m:
            opt.m[n].copy_(saved["m"][n])
        for n in opt.v:
            opt.v[n].copy_(saved["v"][n])
        for n in opt.mean:
            opt.mean[n].copy_(saved["mean"][n])
        state.copy_(saved["state"])
        if args.new_round:
            state[1], state[2] = 0, state[2] + 1
    for n in trained:
        params[n].requires_grad_()
    grads = [{n: torch.zeros_like(params[n]).detach().share_memory_() for n in trained} for _ in range(PROCESSES)]
    items = len(corpus.KINDS) * 2 * args.examples
    shared = [t.share_memory_() for t in (state, torch.zeros(items), torch.zeros(PROCESSES, cfg.L, cfg.E),
                                          torch.full((PROCESSES,), 7.0))]
    print(f"{sum(params[n].numel() for n in trained) / 1e6:.2f} M trained parameters", flush=True)
    ctx = mp.get_context("fork")
    barrier = ctx.Barrier(PROCESSES)
    children = [ctx.Process(target=work, args=(k, args, cfg, params, opt, grads, shared, barrier)) for k in range(PROCESSES)]
    for c in children:
        c.start()
    for c in children:
        c.join()
    if any(c.exitcode for c in children):
        raise SystemExit("a training process failed")


if __name__ == "__main__":
    main()
