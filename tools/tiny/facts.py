"""Facts about ds4 (facts.txt) and the ways to ask for them."""

from words import alternatives, read_blocks, share

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

SYNONYMS = [("flag", "option"), ("option", "flag"), ("flag", "switch"), ("Which", "What"), ("Which option", "What flag"),
            ("print", "show"), ("show", "display"), ("shows", "displays"), ("turn off", "disable"), ("turn off", "switch off"),
            ("disable", "turn off"), ("turn on", "enable"), ("turn on", "switch on"), ("enable", "turn on"),
            ("answer", "reply"), ("answer", "response"), ("answers", "replies"), ("conversation", "chat"),
            ("start", "begin"), ("leave", "exit"), ("stop", "end"), ("stops", "ends"), ("limit", "restrict"),
            ("limits", "restricts"), ("change", "set"), ("change", "adjust"), ("set", "change"), ("choose", "select"),
            ("select", "pick"), ("use", "take"), ("see", "look at"), ("see", "find"), ("get", "have"), ("write", "save"),
            ("the server", "ds4-server"), ("the model", "this model"), ("text", "message"), ("name", "call"),
            ("largest", "biggest"), ("large", "big"), ("How large", "How big"), ("How many", "What number of"),
            ("by default", "if I say nothing"), ("stands for", "means"), ("means", "stands for"), ("means", "tells"),
            ("give", "have"), ("gives", "has"), ("reads", "takes"), ("read", "load"), ("Which endpoint", "What path"),
            ("endpoint", "URL"), ("shows", "tells"), ("is missing", "does not exist"), ("command", "REPL command"),
            ("measure", "compute"), ("What happens", "What is done"), ("Can I", "Could I"), ("default", "standard"),
            ("program", "tool"), ("file", "document"), ("prompt", "question"), ("picks", "chooses"), ("again", "once more")]


def reword(r, q):
    """one word exchanged for a similar one, where any fits"""
    fits = [(a, b) for a, b in SYNONYMS if f" {a} " in f" {q} "]
    if not fits:
        return q
    a, b = r.choice(fits)
    return f" {q} ".replace(f" {a} ", f" {b} ", 1)[1:-1]


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
        self.made = [p for p in phrases if p not in asks and p not in self.held and p not in self.new]

    def question(self, r):
        q = r.choice(self.asks if not self.made or r.random() < 0.4 else self.made)
        if r.random() < 0.3:
            other = reword(r, q)
            return q if other in self.held or other in self.new else other
        return q

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


def all_facts():
    return [Fact(topic, lines) for topic, lines in read_blocks("facts.txt")]
