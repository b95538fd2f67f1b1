"""Tools with schemas, requests that need them, calls and results."""

import json

from protocol import call_text

REAL = [                                   # name, description, parameters (name, type), questions
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
    if r.random() < 0.08:                                # a name that says nothing: only the description helps
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
    for _ in range(min(most, r.choice([1, 1, 2, 2, 3, 3] if w.held else [1, 2, 2, 3, 3, 3]))):
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


def tool_turn(r, w, tools):
    tool = r.choice(tools)
    question, args = request(r, w, tool)
    return question, f"I need the {tool.name} tool.", call_text(tool.name, [(p, args[p]) for p, _ in tool.params if p in args])


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
