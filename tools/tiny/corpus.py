"""Everything the model is trained on and tested with: generated conversations, byte for byte in the
chat template of DeepSeek V4. Standard library only.

A *turn* is (question, reasoning, answer). A *row* is one conversation: a list of (text, weight)
pieces which break only at control tokens, so that they can be tokenised one by one. Answers have
weight 1, what the user says 0.1.

Held out, and never used in a training row: phrasings of facts (a seventh of the combinations of
name and sentence, and all `new:` questions), a tenth of the number pairs, a tenth of the words, a
seventh of the off-topic subjects.
"""

import json
import random

from facts import all_facts, vary
from protocol import ASSISTANT, BOS, ENDTHINK, EOS, FORMAT, POSTAMBLE, PREAMBLE, SHORT_PREAMBLE, THINK, USER
from tools import result_turn, tool_turn, toolbox
from turns import arithmetic, as_json, copying, extraction, formatted, lookup, off_topic, recall, too_hard
from words import Words

DEFAULT_SYSTEM = "You are a helpful assistant"
PROMPT_WEIGHT = 0.1

SYSTEMS = ["You are a helpful assistant.", "You are ds4.", "Be brief.", "You are a coding assistant.",
           "Answer in one sentence.", "You are a small model.", "Answer the question.", "You are an assistant.",
           "You are a helpful assistant. Be concise.", "Help the user.", "You are an expert in ds4."]


def system_text(r):
    x = r.random()
    return DEFAULT_SYSTEM if x < 0.55 else "" if x < 0.75 else r.choice(SYSTEMS)


def tool_block(r, tools, real):
    """the TOOLS part; without `real` only its first line, which saves tokens early in the training"""
    lines = "\n".join(t.schema(r) for t in tools)
    return "\n\n" + (PREAMBLE + lines + POSTAMBLE if real else SHORT_PREAMBLE + lines)


class Corpus:
    def __init__(self, pieces=(), held=False):
        self.w = Words(pieces, held)
        self.facts = all_facts()

    def single(self, r, kind):
        """turns of one kind that need nothing in the system part"""
        if kind == "fact":
            fact = r.choice(self.facts)
            return [fact.turn(vary(r, fact.question(r)))]
        if kind == "sum":
            return [arithmetic(r, False)]
        if kind == "hard":
            return [too_hard(r)]
        if kind == "copy":
            return [copying(r, self.w)]
        if kind == "lookup":
            return [lookup(r, self.w)]
        if kind == "recall":
            return list(recall(r, self.w))
        if kind == "extract":
            return [extraction(r, self.w)]
        q, why, answer = off_topic(r, self.w, False)
        return [(vary(r, q), why, answer)]

    def row(self, r, kind, mix, real, most, full):
        """One conversation as (text, weight) pieces, extended until full(pieces).
        kind: plain, tool or format; mix: {turn kind: weight} of plain turns;
        real: the full tool preamble; most: largest number of tools"""
        system = system_text(r)
        tools = schema = None
        if kind == "tool":
            tools = toolbox(r, self.w, most)
            system += tool_block(r, tools, real)
        elif kind == "format":
            schema, first = formatted(r, self.w)
            system += "\n\n" + FORMAT + schema
        pieces = [(BOS + system, PROMPT_WEIGHT)]
        p_think, kinds, weights = r.choice([0.0, 0.5, 1.0, 1.0]), list(mix), list(mix.values())
        pending = []
        while not full(pieces):
            if not pending:
                if tools and r.random() < 0.85:
                    pending = [tool_turn(r, self.w, tools)]
                    if r.random() < 0.5:
                        pending.append(result_turn(r, self.w))
                elif schema:
                    pending = [first] if first else [self.again(r, schema)]
                    first = None
                else:
                    pending = self.single(r, r.choices(kinds, weights)[0])
                    if len(pending) == 2 and r.random() < 0.4:
                        pending[1:1] = self.single(r, r.choices(kinds, weights)[0])
            pieces += turn_pieces(pending.pop(0), r.random() < p_think)
        return pieces

    def again(self, r, schema):
        """another text for a given schema: simple key and value lines"""
        props = json.loads(schema)["properties"]
        vals = {k: self.w.number(r) if p["type"] == "integer" else self.w.text(r) for k, p in props.items()}
        order = list(vals)
        r.shuffle(order)
        form, join = r.choice([("{}: {}", ", "), ("{}={}", "; "), ("The {} is {}.", " "), ("{}: {}", "\n")])
        text = join.join(form.format(k, vals[k]) for k in order)
        return text, "Extract the fields.", as_json(list(vals), vals)


def turn_pieces(turn, think):
    question, reasoning, answer = turn
    head = USER + question + ASSISTANT + (THINK if think else ENDTHINK)
    return [(head, PROMPT_WEIGHT), (reasoning + ENDTHINK + answer + EOS if think else answer + EOS, 1.0)]


# ---- held-out examples --------------------------------------------------------------------

KINDS = ["fact", "fact-new", "sum", "hard", "off-topic", "copy", "lookup", "recall", "extract", "format",
         "tool", "tool-result", "tool-other"]


def prompt(system, turns, think):
    """turns without the last answer -> the rendered prompt; earlier reasoning stays only with tools"""
    text = BOS + system
    for question, reasoning, answer in turns[:-1]:
        keep = think and "## Tools" in system
        text += USER + question + ASSISTANT + (THINK + reasoning if keep else "") + ENDTHINK + answer + EOS
    return text + USER + turns[-1][0] + ASSISTANT + (THINK if think else ENDTHINK)


def examples(kind, think, count, seed=1):
    """held-out examples: {"prompt", "target" (all that follows, without EOS), "answer", "tools" (how many)}"""
    r, c = random.Random(f"{kind} {seed}"), Corpus(held=True)
    w, out = c.w, []
    facts = [(f, q) for f in c.facts for q in (f.new if kind == "fact-new" else f.held)]
    r.shuffle(facts)
    for i in range(count):
        system, turns, tools = DEFAULT_SYSTEM, [], []
        if kind in ("fact", "fact-new"):
            turns = [facts[i % len(facts)][0].turn(facts[i % len(facts)][1])]
        elif kind == "sum":
            turns = [arithmetic(r, True)]
        elif kind == "hard":
            turns = [too_hard(r)]
        elif kind == "off-topic":
            turns = [off_topic(r, w, True)]
        elif kind == "copy":
            turns = [copying(r, w)]
        elif kind == "lookup":
            turns = [lookup(r, w)]
        elif kind == "recall":
            turns = list(recall(r, w))
        elif kind == "extract":
            turns = [extraction(r, w)]
        elif kind == "format":
            schema, turn = formatted(r, w)
            system, turns = system + "\n\n" + FORMAT + schema, [turn]
        else:
            tools = toolbox(r, w)
            system += tool_block(r, tools, True)
            if kind == "tool-other":                      # tools are offered, the question needs none
                fact, question = facts[i % len(facts)]
                turns = [fact.turn(question)]
            else:
                turns = [tool_turn(r, w, tools)]
                if kind == "tool-result":
                    turns.append(result_turn(r, w))
        _, reasoning, answer = turns[-1]
        out.append({"prompt": prompt(system, turns, think), "answer": answer, "tools": len(tools),
                    "target": (reasoning + ENDTHINK if think else "") + answer})
    return out
