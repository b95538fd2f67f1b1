"""Turns that need nothing in the system part: arithmetic, copying, look-up, recall, off-topic
questions and extraction. A turn is (question, reasoning, answer)."""

import json

from facts import HOW, WHAT
from words import alternatives, read_blocks, share

REFUSAL = "I am only a small demonstration model, so I cannot help with that. Ask me about ds4."
TOO_HARD = "I can only add and subtract numbers of up to two digits."


# ---- arithmetic, copying, recall, off-topic ------------------------------------------

def pair_held(a, b, op):
    return share(f"{a}{op}{b}", 10) == 0


def sum_reasoning(a, b):
    if a < 10 and b < 10:
        return f"{a}+{b}={a + b}"
    low = a % 10 + b % 10
    tens = f"{a // 10}+{b // 10}" + ("+1" if low > 9 else "")
    return f"{a % 10}+{b % 10}={low}, {tens}={a // 10 + b // 10 + low // 10}"


def difference_reasoning(a, b):
    if a < b:
        return f"{a}<{b}, so {b}-{a}: " + difference_reasoning(b, a)
    if a < 10:
        return f"{a}-{b}={a - b}"
    borrow = a % 10 < b % 10
    low = a % 10 + 10 * borrow
    return f"{low}-{b % 10}={low - b % 10}, {a // 10}-{b // 10}" + ("-1" if borrow else "") + f"={a // 10 - b // 10 - borrow}"


SUM = ["What is {a}+{b}?", "{a}+{b}", "{a} + {b} =", "What is {a} + {b}?", "Compute {a} plus {b}.", "{a}+{b}=?",
       "How much is {a} plus {b}?", "Add {a} and {b}.", "What is the sum of {a} and {b}?", "What is {a} plus {b}?",
       "{a} plus {b}", "Calculate {a}+{b}.", "How much is {a}+{b}?", "Please add {a} and {b}.", "{a} + {b}"]
DIFFERENCE = ["What is {a}-{b}?", "{a}-{b}", "{a} - {b} =", "What is {a} - {b}?", "Compute {a} minus {b}.", "{a}-{b}=?",
              "How much is {a} minus {b}?", "Subtract {b} from {a}.", "What is {a} minus {b}?", "{a} minus {b}",
              "Calculate {a}-{b}.", "How much is {a}-{b}?", "Please subtract {b} from {a}.", "{a} - {b}"]
HARD = ["What is {a}*{b}?", "{a} * {b}", "What is {a} times {b}?", "Multiply {a} by {b}.", "What is {a}/{b}?",
        "Divide {a} by {b}.", "What is {a} divided by {b}?", "How much is {a} times {b}?", "{a}/{b}",
        "What is {c}+{a}?", "{c} + {d}", "What is {c}-{d}?", "{c} minus {a}", "Add {c} and {d}.", "What is {c} plus {d}?"]


def arithmetic(r, held):
    while True:
        op = r.choice("+-")
        a, b = ((r.randint(0, 99), r.randint(0, 99)) if r.random() < 0.85 else (r.randint(0, 19), r.randint(0, 9)))
        if op == "-" and a < b and r.random() < 0.75:
            a, b = b, a
        if op == "-" and a >= 10 and a % 10 >= b % 10 and r.random() < 0.4:
            continue                                     # borrows are harder: show more of them
        if pair_held(a, b, op) == held:
            break
    if op == "+":
        return r.choice(SUM).format(a=a, b=b), sum_reasoning(a, b), f"{a} + {b} = {a + b}"
    return r.choice(DIFFERENCE).format(a=a, b=b), difference_reasoning(a, b), f"{a} - {b} = {a - b}"


def too_hard(r):
    n = [r.randint(2, 99), r.randint(2, 99), r.randint(100, 9999), r.randint(100, 9999)]
    return r.choice(HARD).format(a=n[0], b=n[1], c=n[2], d=n[3]), "This is too hard for me.", TOO_HARD


def copying(r, w):
    x = r.random()
    text = (" ".join(w.any(r) for _ in range(r.randint(1, 3))) if x < 0.5 else w.text(r) if x < 0.8 else
            w.name(r, 2) if x < 0.9 else str(w.number(r)))
    q = r.choice(["Repeat: {}", "Say {}", "Repeat after me: {}", "Write {}", "Copy this: {}", "Echo {}", 'Repeat "{}"',
                  "Please repeat: {}", "Type {}", "repeat {}"]).format(text)
    return q, "Repeat the text.", text


def lookup(r, w):
    keys = [w.name(r) for _ in range(r.randint(2, 5))]
    vals = [str(w.number(r)) if r.random() < 0.3 else w.any(r) for _ in keys]
    eq, sep = r.choice(["=", " = ", ": ", " is "]), r.choice([", ", "; ", "\n", ". "])
    i = r.randrange(len(keys))
    q = r.choice(["What is {}?", "Which value has {}?", "{}?", "Give me {}.", "Tell me {}."]).format(keys[i])
    return sep.join(k + eq + v for k, v in zip(keys, vals)) + r.choice([". ", "\n", "\n\n"]) + q, "Look it up.", vals[i]


def recall(r, w):
    """two turns: something is said, then asked for"""
    if r.random() < 0.5:
        n = w.cap(r) if r.random() < 0.6 else w.cap(r) + " " + w.cap(r)
        say = r.choice(["My name is {}.", "I am {}.", "Hello, my name is {}.", "Hi, I am {}.", "Call me {}.", "I'm {}."])
        ask = r.choice(["What is my name?", "Who am I?", "Do you know my name?", "Do you remember my name?", "What's my name?"])
        return ((say.format(n), "The user says a name.", f"Nice to meet you, {n}!"),
                (ask, "The name was given before.", f"Your name is {n}."))
    k, v = w.name(r), str(w.number(r)) if r.random() < 0.3 else w.any(r)
    say = r.choice(["My {} is {}.", "The {} is {}.", "Remember: the {} is {}.", "Remember that my {} is {}."])
    whose = "my" if "my" in say.lower() else "the"
    ask = r.choice(["What is {} {}?", "What was {} {}?", "Do you remember {} {}?", "Tell me {} {}."]).format(whose, k)
    return ((say.format(k, v), "Remember this.", f"I will remember that: {k} is {v}."),
            (ask, "It was given before.", f"The {k} is {v}." if whose == "the" else f"Your {k} is {v}."))


OFF_THINGS, OFF_ACTIONS, OFF_QUESTIONS = (alternatives(lines[0]) for _, lines in read_blocks("offtopic.txt"))
RANDOM_OFF = ["Why is {} {}?", "Who is {}?", "Where is {}?", "Do you like {}?", "What is {}?", "How do I {} a {}?",
              "Tell me about {}.", "Can you {} the {}?", "Is {} better than {}?", "What do you think about {}?",
              "Write about {} and {}.", "How many {} are there?", "What does {} mean?", "Explain {}.", "{} {}", "{}?",
              "I like {}.", "My {} is {} and {}.", "How can I {}?", "When will {} {}?", "What is the {} of {}?",
              "Show me {}.", "Give me a {}.", "Should I {}?", "Who was {} {}?", "{} {} {} {}", "The {} was {} the {}."]


def off_topic(r, w, held):
    pick = lambda items: r.choice([i for i in items if (share(i, 7) == 0) == held])
    x = r.random()
    if x < 0.32:
        q = r.choice(WHAT + ["Who knows {}?", "Why is there {}?", "Do you like {}?", "Where can I find {}?",
                             "How much does {} cost?", "What is the history of {}?", "Write a poem about {}.",
                             "Tell me a story about {}.", "What is better than {}?"]).format(pick(OFF_THINGS))
    elif x < 0.55:
        q = r.choice(HOW).format(pick(OFF_ACTIONS))
    elif x < 0.75:
        q = pick(OFF_QUESTIONS)
    else:
        q = r.choice(RANDOM_OFF)
        while "{}" in q:
            q = q.replace("{}", w.any(r) if r.random() < 0.6 else r.choice(w.known), 1)
    return q, "This is not about ds4.", REFUSAL


# ---- extraction ----------------------------------------------------------------------

NATURAL = [  # keys, sentence
    (["name", "age", "city"], "{name} is {age} years old and lives in {city}."),
    (["name", "city"], "{name} lives in {city}."),
    (["name", "age"], "{name} is {age} years old."),
    (["name", "item", "price"], "{name} bought a {item} for {price} dollars."),
    (["item", "quantity", "price"], "We ordered {quantity} {item} at {price} euros."),
    (["item", "price"], "The {item} costs {price} euros."),
    (["name", "company"], "{name} works at {company}."),
    (["name", "job", "company"], "{name} is a {job} at {company}."),
    (["event", "date", "place"], "The {event} is on {date} in {place}."),
    (["name", "email"], "{name} can be reached at {email}."),
    (["origin", "destination"], "The train goes from {origin} to {destination}."),
    (["title", "author", "year"], "{title} was written by {author} in {year}."),
]
KIND = {"name": "cap", "city": "cap", "company": "cap", "place": "cap", "author": "cap", "title": "cap", "origin": "cap",
        "destination": "cap", "age": "small", "quantity": "small", "price": "number", "year": "year", "date": "date",
        "email": "email"}


def field_value(r, w, key):
    kind = KIND.get(key)
    if kind == "cap":
        return w.cap(r) if r.random() < 0.6 else w.cap(r) + " " + w.cap(r)
    if kind == "small":
        return r.randint(1, 99)
    if kind == "number":
        return w.number(r)
    if kind == "year":
        return r.randint(1700, 2030)
    if kind == "date":
        return f"{r.randint(1990, 2035)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}"
    if kind == "email":
        return w.lower(r) + "@" + w.lower(r) + ".com"
    return w.lower(r)


def fields(r, w):
    """-> asked keys, all values, the text that holds them"""
    if r.random() < 0.3:
        keys, sentence = r.choice(NATURAL)
        vals = {k: field_value(r, w, k) for k in keys}
        text = sentence.format(**vals)
        asked = list(keys)
        if len(asked) > 1 and r.random() < 0.2:
            asked.remove(r.choice(asked))
    else:
        keys = []
        while len(keys) < r.choice([1, 2, 2, 3, 3, 4]):
            k = w.name(r) if r.random() < 0.8 else r.choice(list(KIND))
            if k not in keys:
                keys.append(k)
        vals = {k: (w.number(r) if r.random() < 0.3 else w.text(r)) for k in keys}
        asked = list(keys)
        if len(keys) > 1 and r.random() < 0.3:
            asked.remove(r.choice(asked))
        order = keys[:]
        r.shuffle(order)
        style = r.randrange(6)
        spoken = lambda k: k.replace("_", " ") if style > 2 and r.random() < 0.3 else k
        join = {0: ", ", 1: "; ", 2: "\n", 3: " ", 4: " and ", 5: ", "}[style]
        form = {0: "{}: {}", 1: "{}={}", 2: "{}: {}", 3: "The {} is {}.", 4: "the {} is {}", 5: "{} {}"}[style]
        text = join.join(form.format(spoken(k), vals[k]) for k in order)
        if style == 4:
            text = "T" + text[1:] + "."
    if r.random() < 0.5:
        r.shuffle(asked)
    return asked, vals, text


def as_json(keys, vals):
    return json.dumps({k: vals[k] for k in keys}, ensure_ascii=False)


def listing(r, keys):
    return keys[0] if len(keys) == 1 else ", ".join(keys) if r.random() < 0.5 else ", ".join(keys[:-1]) + " and " + keys[-1]


def type_of(v):
    return "integer" if isinstance(v, int) else "string"


def extraction(r, w):
    keys, vals, text = fields(r, w)
    if r.random() < 0.25:
        types = json.dumps({k: type_of(vals[k]) for k in keys})
        q = r.choice(["Extract JSON with the schema {t}: {x}", "Schema: {t}\nText: {x}", "Fill {t} from this text: {x}",
                      "Answer with JSON like {t}.\n\n{x}", "{x}\n\nExtract JSON: {t}"]).format(t=types, x=text)
    else:
        q = r.choice(["Extract {k} as JSON: {x}", "Extract {k} as JSON from: {x}", "Give me {k} as JSON.\n\n{x}",
                      "Return JSON with the keys {k}.\n{x}", "{x}\nExtract {k} as JSON.", "Extract {k} as JSON.\n\n{x}",
                      "From this text extract {k} as JSON: {x}", "JSON with {k}: {x}",
                      "Extract the fields {k} as JSON: {x}", "{x}\n\nGive {k} as JSON."]).format(k=listing(r, keys), x=text)
    return q, "Extract the fields.", as_json(keys, vals)


def format_schema(keys, vals):
    return json.dumps({"type": "object", "properties": {k: {"type": type_of(vals[k])} for k in keys}, "required": keys})


def formatted(r, w):
    """-> schema text, turn; the schema stands in the system part"""
    keys, vals, text = fields(r, w)
    q = r.choice(["{}", "Extract the fields: {}", "Text: {}", "Extract: {}", "{}\n\nAnswer as JSON.", "Fill the schema: {}"])
    return format_schema(keys, vals), (q.format(text), "Extract the fields.", as_json(keys, vals))
