"""Everything the model is trained on and tested with: generated conversations, byte for byte in the
chat template of DeepSeek V4. Standard library only.

A *turn* is (question, reasoning, answer). A *row* is one conversation: a list of (text, weight)
pieces which break only at control tokens, so that they can be tokenised one by one. Answers have
weight 1, what the user says 0.1.

Held out, and never used in a training row: phrasings of facts (a seventh of the combinations of
name and sentence, and all `new:` questions), a tenth of the number pairs, a tenth of the words, a
seventh of the off-topic subjects.
"""

import hashlib
import json
import os
import random

HERE = os.path.dirname(os.path.abspath(__file__))
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, ENDTHINK, DSML = "<think>", "</think>", "｜DSML｜"
DEFAULT_SYSTEM = "You are a helpful assistant"
REFUSAL = "I am only a small demonstration model, so I cannot help with that. Ask me about ds4."
TOO_HARD = "I can only add and subtract numbers of up to two digits."
PROMPT_WEIGHT = 0.1

PREAMBLE = f"""## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "<{DSML}tool_calls>" block like the following:

<{DSML}tool_calls>
<{DSML}invoke name="$TOOL_NAME">
<{DSML}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{DSML}parameter>
...
</{DSML}invoke>
<{DSML}invoke name="$TOOL_NAME2">
...
</{DSML}invoke>
</{DSML}tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by {THINK}), you MUST output your complete reasoning inside {THINK}...{ENDTHINK} BEFORE any tool calls or final response.

Otherwise, output directly after {ENDTHINK} with tool calls or final response.

### Available Tool Schemas

"""
SHORT_PREAMBLE = "## Tools\n\n"
POSTAMBLE = "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n"
FORMAT = "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"

SYSTEMS = ["You are a helpful assistant.", "You are ds4.", "Be brief.", "You are a coding assistant.",
           "Answer in one sentence.", "You are a small model.", "Answer the question.", "You are an assistant.",
           "You are a helpful assistant. Be concise.", "Help the user.", "You are an expert in ds4."]


def share(text, n):
    """a fixed pseudo-random number below n for a text"""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") % n


def read_blocks(name):
    """[title] blocks of a data file as (title, text) pairs, without comments"""
    blocks = []
    for line in open(os.path.join(HERE, name), encoding="utf-8"):
        line = line.rstrip("\n")
        if line.startswith("["):
            blocks.append((line[1:-1], []))
        elif line and not line.startswith("#"):
            blocks[-1][1].append(line)
    return blocks


def alternatives(text):
    return [s.strip() for s in text.split(" | ")]


# ---- facts ----------------------------------------------------------------------

WHAT = ["What is {}?", "What does {} do?", "What is {} for?", "Explain {}.", "Describe {}.", "Tell me about {}.",
        "What do you know about {}?", "What does {} mean?", "Can you explain {}?", "{}?", "{}",
        "I want to know about {}.", "Please explain {}.", "Give me information about {}.",
        "What can you tell me about {}?", "How does {} work?", "When do I use {}?", "Define {}.", "What's {}?",
        "Information on {}", "Could you tell me what {} is?", "Do you know {}?", "What about {}?",
        "I have a question about {}.", "What exactly is {}?", "What is the purpose of {}?", "What is meant by {}?"]
HOW = ["How do I {}?", "How can I {}?", "How to {}?", "Which flag do I use to {}?", "I want to {}.",
       "What do I do to {}?", "Is it possible to {}?", "Can I {}?", "Tell me how to {}.", "Show me how to {}.",
       "Please explain how to {}.", "I need to {}.", "What is the way to {}?", "What should I type to {}?",
       "How does one {}?", "Is there a way to {}?", "Help me {}.", "What must I do to {}?", "I would like to {}.",
       "Which option lets me {}?", "How could I {}?", "What do I need to {}?", "{}", "Which command do I use to {}?",
       "Explain how I can {}.", "What is the best way to {}?"]
BEFORE = ["Please: ", "Quick question: ", "Hey, ", "Hi, ", "Question: ", "Sorry, ", "ok, ", "So, ", "And ", "Hello, ",
          "Tell me: ", "Now, ", "One more question: "]
AFTER = [" Thanks.", " please", " Please.", " in ds4", " with ds4", " Thank you."]


class Fact:
    def __init__(self, topic, lines):
        parts = dict(line.split(": ", 1) for line in lines)
        self.topic, self.answer = topic, parts["answer"]
        phrases = list(alternatives(parts.get("ask", ""))) if "ask" in parts else []
        phrases += [t.format(n) for n in alternatives(parts["what"]) for t in WHAT] if "what" in parts else []
        phrases += [t.format(n) for n in alternatives(parts["how"]) for t in HOW] if "how" in parts else []
        self.new = alternatives(parts["new"])
        asks = set(alternatives(parts["ask"])) if "ask" in parts else set()
        self.held = [p for p in phrases if share(topic + p, 7) == 0 and p not in asks]
        self.asks = [p for p in phrases if p in asks and p not in self.new]
        self.made = [p for p in phrases if p not in asks and p not in self.held]

    def question(self, r):
        if not self.made or r.random() < 0.4:
            return r.choice(self.asks)
        return r.choice(self.made)

    def turn(self, question):
        return question, f"The question is about {self.topic}.", self.answer


def vary(r, q):
    """small changes a person makes: case, punctuation, an opening word"""
    x = r.random()
    if x < 0.10:
        q = r.choice(BEFORE) + (q[0].lower() + q[1:] if r.random() < 0.5 else q)
    elif x < 0.15:
        q = q[:-1] + r.choice(AFTER) + q[-1] if q[-1] in "?." and r.random() < 0.5 else q + r.choice(AFTER)
    if r.random() < 0.15:
        q = q[0].lower() + q[1:]
    if r.random() < 0.15 and q[-1] in "?.!":
        q = q[:-1]
    return q


# ---- words and values ---------------------------------------------------------------

class Words:
    """Random words. In training mostly joined from letter tokens of the vocabulary, so that every
    token also occurs inside copied text; held-out words only for tests."""

    def __init__(self, pieces=(), held=False):
        words = open(os.path.join(HERE, "words.txt"), encoding="utf-8").read().split()
        self.known = [w for w in words if (share(w, 10) == 0) == held]
        self.forbidden = set() if held else {w for w in words if share(w, 10) == 0}
        self.pieces, self.held = list(pieces), held

    def syllables(self, r):
        return "".join(r.choice("bcdfghjklmnprstvwz") + r.choice("aeiou") + r.choice(["", "", "n", "r", "s", "l", "t"])
                       for _ in range(r.randint(1, 3)))

    def lower(self, r):
        x = r.random()
        if x < 0.35 or (self.held and x < 0.7):
            return r.choice(self.known)
        if x < 0.45 or not self.pieces:
            return self.syllables(r)
        while True:
            w = "".join(r.choice(self.pieces) for _ in range(r.choice([1, 1, 2, 2, 3])))
            if r.random() < 0.75:
                w = w.lower()
            if 2 <= len(w) <= 16 and w.lower() not in self.forbidden:
                return w

    def any(self, r):
        w, x = self.lower(r), r.random()
        if x < 0.30:
            return w[0].upper() + w[1:]
        return w.upper() if x < 0.34 else w

    def cap(self, r):
        w = self.lower(r)
        return w[0].upper() + w[1:]

    def name(self, r, parts=None):
        """an identifier"""
        words = [self.lower(r).lower() if r.random() < 0.9 else self.lower(r)
                 for _ in range(parts or r.choice([1, 1, 1, 2]))]
        return "_".join(words)

    def text(self, r):
        """a short string value"""
        x = r.random()
        if x < 0.40:
            return self.any(r)
        if x < 0.55:
            return " ".join(self.lower(r) for _ in range(r.randint(2, 4)))
        if x < 0.70:
            return " ".join(self.cap(r) for _ in range(2))
        if x < 0.78:
            return "/".join(self.lower(r) for _ in range(r.randint(1, 3))) + "." + r.choice(
                ["c", "h", "py", "txt", "md", "json", "csv", "log", self.lower(r)[:3]])
        if x < 0.83:
            return self.lower(r) + "@" + self.lower(r) + r.choice([".com", ".org", ".net", ".de"])
        if x < 0.88:
            return f"{r.randint(1990, 2035)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}"
        if x < 0.92:
            return f"{r.randint(0, 23)}:{r.randint(0, 59):02d}"
        if x < 0.96:
            return self.lower(r) + "-" + str(r.randint(0, 999))
        return self.lower(r) + r.choice(["_", ".", "-"]) + self.lower(r)

    def number(self, r):
        return r.choice([r.randint(0, 9), r.randint(0, 99), r.randint(0, 999), r.randint(0, 9999)])


# ---- single turns -------------------------------------------------------------------

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


# ---- tools ----------------------------------------------------------------------------

REAL = [  # name, description, parameters (name, type), questions
    ("get_weather", "Get the weather of a city", [("city", "string"), ("days", "integer")],
     ["What is the weather in {city}?", "How is the weather in {city}?", "Weather in {city}?", "Weather in {city} for {days} days",
      "What will the weather be in {city} for the next {days} days?", "Will it rain in {city}?"]),
    ("read_file", "Read a file", [("path", "string")],
     ["Read {path}.", "Show me {path}", "What is in {path}?", "Open the file {path}.", "Please read the file {path}."]),
    ("list_files", "List the files of a directory", [("path", "string")],
     ["List the files in {path}.", "Which files are in {path}?", "Show the directory {path}.", "ls {path}"]),
    ("delete_file", "Delete a file", [("path", "string")], ["Delete {path}.", "Remove the file {path}.", "Please delete {path}."]),
    ("run_command", "Run a shell command", [("command", "string")],
     ["Run {command}", "Execute the command {command}", "Run the command {command}"]),
    ("search_web", "Search the web", [("query", "string"), ("limit", "integer")],
     ["Search the web for {query}.", "Search for {query}.", "Find {query} on the web.", "Search for {query}, {limit} results."]),
    ("send_email", "Send an email", [("to", "string"), ("subject", "string")],
     ["Send an email to {to} with subject {subject}.", "Email {to} about {subject}.", "Write an email to {to}, subject {subject}"]),
    ("set_timer", "Set a timer", [("minutes", "integer")],
     ["Set a timer for {minutes} minutes.", "Start a timer of {minutes} minutes.", "Timer {minutes} minutes"]),
    ("get_time", "Get the time in a city", [("city", "string")],
     ["What time is it in {city}?", "Time in {city}?", "Tell me the time in {city}."]),
    ("translate", "Translate a text", [("text", "string"), ("language", "string")],
     ["Translate {text} into {language}.", "What is {text} in {language}?", "How do you say {text} in {language}?"]),
    ("create_event", "Create a calendar event", [("title", "string"), ("date", "string")],
     ["Create an event {title} on {date}.", "Add {title} to my calendar on {date}.", "Plan {title} for {date}."]),
    ("get_price", "Get the price of a stock", [("symbol", "string")],
     ["What is the price of {symbol}?", "Price of {symbol}?", "How much is {symbol}?", "Stock price of {symbol}"]),
    ("play_song", "Play a song", [("title", "string"), ("artist", "string")],
     ["Play {title}.", "Play {title} by {artist}.", "I want to hear {title} by {artist}."]),
    ("book_room", "Book a hotel room", [("city", "string"), ("nights", "integer")],
     ["Book a room in {city} for {nights} nights.", "I need a hotel in {city} for {nights} nights."]),
    ("turn_on_light", "Turn on a light", [("room", "string")], ["Turn on the light in the {room}.", "Light on in the {room}."]),
    ("add_task", "Add a task to the list", [("task", "string")], ["Add {task} to my tasks.", "Remind me to {task}.", "New task: {task}"]),
]

JOIN_NAMED = ["{p} {x}", "{p} {x}", "{p}: {x}", "{p}={x}", '{p} "{x}"', "{p} = {x}"]
ASK_ONE = ["{V} the {n} for {x}.", "{V} the {n} of {x}.", "{V} the {n} in {x}.", "What is the {n} of {x}?",
           "What is the {n} in {x}?", "Please {v} the {n} of {x}.", "Can you {v} the {n} for {x}?", "I need the {n} for {x}.",
           "Show me the {n} of {x}.", "{V} {n} {x}", "{n} {x}", "{n} of {x}?", "How is the {n} in {x}?", "{V} the {n} {x}.",
           "I want to {v} the {n} {x}.", '{V} the {n} "{x}".', "Tell me the {n} for {x}.", "{V} {x}."]
ASK_NAMED = ["{V} the {n} with {a}.", "{V} the {n}, {a}", "Please {v} the {n} with {a}.", "{V} {n}: {a}", "Call {t} with {a}.",
             "Use {t} with {a}.", "{t} {a}", "{V} a {n} with {a}.", "I need the {n} with {a}.", "Can you {v} the {n} with {a}?",
             "{V} the {n} where {a}.", "Use the tool {t}: {a}"]
ASK_NONE = ["{V} the {n}.", "Please {v} the {n}.", "{V} {n}", "Can you {v} the {n}?", "I want to {v} the {n}.", "Call {t}.",
            "Use {t}.", "What is the {n}?", "Show me the {n}."]


class Tool:
    def __init__(self, name, description, params, required, questions=None, verb=None, noun=None):
        self.name, self.description, self.params, self.required = name, description, params, required
        self.questions, self.verb, self.noun = questions, verb, noun

    def schema(self, r):
        props = {}
        for p, kind in self.params:
            props[p] = {"type": kind}
            if r.random() < 0.25:
                props[p]["description"] = r.choice(["The {}", "{}", "{} of the request", "the {} to use"]).format(p.replace("_", " "))
        line = {"name": self.name}
        if self.description:
            line["description"] = self.description
        line["parameters"] = {"type": "object", "properties": props}
        if self.required or r.random() < 0.5:
            line["parameters"]["required"] = self.required
        if r.random() < 0.15:
            line["parameters"]["additionalProperties"] = False
        return json.dumps(line, ensure_ascii=False)


def value_of(r, w, kind):
    if kind == "integer":
        return w.number(r)
    if kind == "number":
        return round(r.uniform(0, 100), r.choice([1, 2]))
    if kind == "boolean":
        return r.random() < 0.5
    return w.text(r)


def made_tool(r, w, others):
    """a tool with a random name; now and then it shares its verb or noun with one already there"""
    verb, noun = w.name(r, 1), w.name(r, 1)
    if others and r.random() < 0.3:
        o = r.choice(others)
        if o.verb and r.random() < 0.5:
            verb = o.verb
        elif o.noun:
            noun = o.noun
    name = r.choice([f"{verb}_{noun}"] * 6 + [f"{verb}{noun[:1].upper()}{noun[1:]}", f"{noun}_{verb}", f"{verb}-{noun}", verb + noun])
    describe = r.choice([f"{verb.capitalize()} the {noun}", f"{verb.capitalize()} a {noun}", f"{verb} {noun}",
                         f"{verb.capitalize()} the {noun} of something.", f"Use this to {verb} the {noun}.", ""])
    if r.random() < 0.12:                                # a name that says nothing: only the description helps
        name, describe = w.name(r, 2), f"{verb.capitalize()} the {noun}"
    params = []
    for _ in range(r.choice([0, 1, 1, 1, 1, 2, 2, 2, 3])):
        p = w.name(r)
        if p not in [q for q, _ in params]:
            params.append((p, r.choice(["string"] * 6 + ["integer"] * 3 + ["number", "boolean"])))
    required = [p for p, _ in params if r.random() < 0.8]
    return Tool(name, describe, params, required, verb=verb, noun=noun)


def toolbox(r, w, most=3):
    tools = []
    for _ in range(min(most, r.choice([1, 1, 2, 2, 3, 3]))):
        if r.random() < 0.2 and not w.held:
            name, text, params, questions = r.choice(REAL)
            tool = Tool(name, text, params, [params[0][0]] if r.random() < 0.8 else [p for p, _ in params], questions)
        else:
            tool = made_tool(r, w, tools)
        if tool.name not in [t.name for t in tools]:
            tools.append(tool)
    return tools


def shown(v):
    return json.dumps(v) if isinstance(v, (bool, float)) else str(v)


def unnamed(tool, named):
    """the parameter that a value without a name belongs to: a string, the required ones first"""
    names = [p for p, _ in named]
    free = [p for p, kind in tool.params if kind == "string" and p not in names]
    return next((p for p in free if p in tool.required), free[0] if free else None)


def request(r, w, tool):
    """-> question, arguments for a tool"""
    if tool.questions:
        question = r.choice(tool.questions)
        args = {p: value_of(r, w, kind) for p, kind in tool.params if "{" + p + "}" in question}
        return question.format(**{p: shown(v) for p, v in args.items()}), args
    params = [(p, kind) for p, kind in tool.params if p in tool.required or r.random() < 0.6]
    args = {p: value_of(r, w, kind) for p, kind in params}
    names = dict(v=tool.verb, V=tool.verb[:1].upper() + tool.verb[1:], n=tool.noun, t=tool.name)
    if not args:
        return r.choice(ASK_NONE).format(**names), args
    spoken = params[:]
    if r.random() < 0.3:
        r.shuffle(spoken)
    named = [r.choice(JOIN_NAMED).format(p=p if r.random() < 0.7 else p.replace("_", " "), x=shown(args[p])) for p, _ in spoken]
    glue = r.choice([" and ", ", ", ", "])
    if spoken[0][0] == unnamed(tool, spoken[1:]) and r.random() < 0.6:   # the first value stands without its name
        question = r.choice(ASK_ONE).format(x=args[spoken[0][0]], **names)
        if len(spoken) > 1:
            counted = spoken[1][1] == "integer" and len(spoken) == 2 and r.random() < 0.4
            rest = f"for {args[spoken[1][0]]} {spoken[1][0]}" if counted else r.choice(["with ", ""]) + glue.join(named[1:])
            end = question[-1] if question[-1] in ".?" else ""
            question = question[:len(question) - len(end)] + r.choice([" ", ", "]) + rest + end
        return question, args
    return r.choice(ASK_NAMED).format(a=glue.join(named), **names), args


def call_text(tool, args):
    lines = []
    for p, _ in tool.params:
        if p in args:
            v = args[p]
            kind, text = ("true", v) if isinstance(v, str) else ("false", json.dumps(v))
            lines.append(f'<{DSML}parameter name="{p}" string="{kind}">{text}</{DSML}parameter>\n')
    body = "".join(lines) or "\n"
    return f'\n\n<{DSML}tool_calls>\n<{DSML}invoke name="{tool.name}">\n{body}</{DSML}invoke>\n</{DSML}tool_calls>'


def tool_turn(r, w, tools):
    tool = r.choice(tools)
    question, args = request(r, w, tool)
    return question, f"I need the {tool.name} tool.", call_text(tool, args)


def result_turn(r, w):
    x = r.random()
    if x < 0.35:
        v = r.choice([w.text(r), f"{w.number(r)}{r.choice(['C', ' EUR', ' km', '%', ''])}", w.any(r) + " " + w.any(r)])
        text, answer = v, f"The result is {v}."
    elif x < 0.60:
        k, v = w.name(r), w.number(r) if r.random() < 0.5 else w.text(r)
        text, answer = json.dumps({k: v}), f"The {k} is {v}."
    elif x < 0.78:
        a, b = w.name(r), w.name(r) + "_" + w.name(r, 1)
        u, v = w.text(r), w.number(r)
        text, answer = json.dumps({a: u, b: v}), f"The {a} is {u} and the {b} is {v}."
    elif x < 0.90:
        e = " ".join(w.lower(r) for _ in range(r.randint(1, 3)))
        text = r.choice(["error: {}", "Error: {}"]).format(e) if r.random() < 0.6 else json.dumps({"error": e})
        answer = f"The tool reported an error: {e}."
    else:
        text, answer = r.choice(["ok", "OK", "done", "", "true", '{"ok": true}', "success"]), "Done."
    return f"<tool_result>{text}</tool_result>", "The tool answered.", answer


# ---- conversations ----------------------------------------------------------------------

def system_text(r):
    x = r.random()
    return DEFAULT_SYSTEM if x < 0.55 else "" if x < 0.75 else r.choice(SYSTEMS)


def tool_block(r, tools, real):
    """the TOOLS part; without `real` only its first line, which saves tokens early in the training"""
    lines = "\n".join(t.schema(r) for t in tools)
    return "\n\n" + (PREAMBLE + lines + POSTAMBLE if real else SHORT_PREAMBLE + lines)


class Corpus:
    def __init__(self, pieces=(), held=False):
        self.w, self.held = Words(pieces, held), held
        self.facts = [Fact(topic, lines) for topic, lines in read_blocks("facts.txt")]

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
    """held-out examples: {"prompt", "target" (all that follows, without EOS), "answer"}"""
    r, c = random.Random(f"{kind} {seed}"), Corpus(held=True)
    w, out = c.w, []
    facts = [(f, q) for f in c.facts for q in (f.new if kind == "fact-new" else f.held)]
    r.shuffle(facts)
    for i in range(count):
        system, turns = DEFAULT_SYSTEM, []
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
        out.append({"prompt": prompt(system, turns, think), "answer": answer,
                    "target": (reasoning + ENDTHINK if think else "") + answer})
    return out


if __name__ == "__main__":
    shown_kinds = random.Random(1)
    for k in KINDS:
        for e in examples(k, True, 3):
            print(f"--- {k}\n{e['prompt'][-500:]}[[{e['target']}]]")
