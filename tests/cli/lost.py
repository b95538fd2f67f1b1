"""ds4-server as a process whose device is lost while it runs. Nothing is timed but what must not be quick."""
import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import harness
from device import Device, on_both, on_far
from harness import BIN, PATIENCE, SLOW, THREADS, Skip, check, equal, path_of, test, wait_until
from serving import Running


class Server(Running):
    def __init__(self, device, *args):
        self.device = device
        device.back()
        super().__init__("--backend", "cuda", "-c", "2048", "--nothink", *args, env=device.environment(),
                         program=device.program("ds4-server"))
        self.serving()

    def open(self, path, body=None):
        c = http.client.HTTPConnection(self.url[len("http://"):], timeout=PATIENCE)
        c.request("POST" if body else "GET", path, body=json.dumps(body) if body else None)
        return c.getresponse()

    def ask(self, path, body=None):
        """(status, headers, text)"""
        r = self.open(path, body)
        return r.status, r.headers, r.read().decode()

    def text_of(self, body):
        status, _, text = self.ask(CHAT, body)
        equal(status, 200, "status, of " + text)
        return json.loads(text)["choices"][0]["message"]["content"]

    def figure(self, name):
        return float(re.search(r"^%s\{[^}]*\} (\S+)$" % name, self.ask("/metrics")[2], re.M).group(1))

    def idle(self):
        """The last token of an answer enters its slot behind the answer."""
        check(wait_until(lambda: not re.search('"(prefill|decode)"', self.ask("/slots")[2])), "the slots are busy")

    def healthy(self):
        check(wait_until(lambda: self.ask("/health")[0] == 200), "the device is not open again", self.text()[-800:])
        self.idle()

    def losses(self):
        return int(self.figure("ds4_device_losses_total"))


SLOWLY = () if THREADS else SLOW        # sanitizers are slow enough
CHAT, TEXT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
DIALECTS = CHAT, TEXT, MESSAGES, RESPONSES


def chat(*turns, **more):
    roles = ("user", "assistant")
    return dict(messages=[{"role": roles[i % 2], "content": t} for i, t in enumerate(turns)],
                **dict(dict(max_tokens=5, temperature=0), **more))


ENDLESS = dict(prompt="a", max_tokens=1500, temperature=0, logit_bias={"1": -100})          # 1 ends a turn


def body_of(path, **more):
    """A request that goes on for a while."""
    if path == TEXT:
        return dict(prompt="a", max_tokens=200, temperature=0, **more)
    if path == RESPONSES:
        return dict(input="What is ds4?", max_output_tokens=200, **more)
    return chat("What is ds4?", max_tokens=200, **more)


# ---- who is running --------------------------------------------------------------------------

def first_words(answer):
    """The lines up to the first piece of an answer's text."""
    lines = []
    while not lines or not re.search(rb'"(text|content|delta)":"?[^"n]', lines[-1]):
        lines.append(answer.readline())
        check(lines[-1], "the stream ended early", lines)
    return b"".join(lines).decode()


@on_both
def a_stream_ends_with_the_error_of_its_dialect(device):
    with Server(device) as s:
        for i, path in enumerate(DIALECTS if device.far else (CHAT, MESSAGES)):
            if device.far:                              # its answers are over before anybody could do anything
                device.lose(6)
            answer = s.open(path, body_of(path, stream=True))
            equal(answer.status, 200, "status of " + path)
            text = first_words(answer)
            device.far or device.lose()
            text += answer.read().decode()
            check(device.says in text, "no sentence in " + path, text[-300:])
            if path == MESSAGES:
                check(re.search(r'event: error\ndata: \{"type":"error","error":\{"type":"api_error".*\}\n\n$', text),
                      "the error of Messages", text[-300:])
                check("message_stop" not in text, "an end behind the error", text[-300:])
            elif path == RESPONSES:
                check(re.search(r'event: response.failed\ndata: .*"status":"failed".*\n\n$', text),
                      "the error of Responses",
                      text[-900:])
            else:
                check(re.search(r'data: \{"error":\{"message":".*"type":"server_error".*\}\n\ndata: \[DONE\]\n\n$',
                                text),
                      "the error of " + path, text[-300:])
            s.healthy()
            equal(s.losses(), i + 1, "losses")
            s.text_of(chat("a", max_tokens=1))
            s.idle()
        check(s.text_of(chat("What is ds4?")).startswith("ds4 is"), "the answer after all of this")
        equal(s.end(), 0, "exit code")


@on_far
def a_whole_answer_is_500_with_the_sentence(device):
    with Server(device) as s:
        for path in DIALECTS:
            device.lose(2)
            status, _, text = s.ask(path, body_of(path))
            equal(status, 500, "status of " + path)
            error = json.loads(text)["error"]
            check(device.says in error["message"], "the sentence of " + path, text)
            equal(error["type"], "api_error" if path == MESSAGES else "server_error", "type of " + path)
            s.healthy()
            s.text_of(chat("a", max_tokens=1))
            s.idle()
        check('code="500"} 1' in s.ask("/metrics")[2], "500 is not counted")
        check("the device was lost: " in s.text() and "open again after" in s.text(), "the log", s.text()[-600:])


@on_both
def who_waits_goes_on_when_the_device_is_back_at_once(device):
    with Server(device, "--slots", "2", *SLOWLY) as s, concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = [pool.submit(s.ask, TEXT, ENDLESS) for _ in range(2)]
        check(wait_until(lambda: s.figure("ds4_requests_running") == 2), "nobody runs")
        waiting = [pool.submit(s.ask, TEXT, dict(prompt="b", max_tokens=1)) for _ in range(2)]
        check(wait_until(lambda: s.figure("ds4_requests_waiting") == 2), "nobody waits")
        device.lose()
        equal([f.result()[0] for f in running + waiting], [500, 500, 200, 200], "status of who ran, and of who waited")
        s.healthy()
        equal(s.losses(), 1, "losses")


# ---- the device stays away -------------------------------------------------------------------

@on_both
def while_it_is_away_everybody_is_told_and_nothing_spins(device):
    with Server(device) as s:
        said = s.text_of(chat("What is ds4?"))
        s.idle()
        equal((s.figure("ds4_device_up"), s.losses()), (1, 0), "figures before")
        device.away()
        device.lose()
        equal(s.ask(CHAT, chat("What is ds4?"))[0], 500, "status of who runs")
        begin, used = time.monotonic(), cpu_seconds(s)
        check(wait_until(lambda: device.missing in s.text()), "no attempt", s.text()[-400:])
        for path in DIALECTS:
            for stream in False, True:
                status, headers, text = s.ask(path, body_of(path, stream=stream))
                equal(status, 503, "status of " + path)
                check(1 <= int(headers["Retry-After"]) <= 60, "Retry-After", headers["Retry-After"])
                message = json.loads(text)["error"]["message"]
                check(message.startswith("the device was lost and is being opened again: ")
                      and device.missing in message,
                      "the sentence of " + path, text)
        equal(json.loads(s.ask(CHAT, chat("a"))[2])["error"]["code"], "device_lost", "code")
        status, headers, text = s.ask("/health")
        equal((status, json.loads(text)), (503, {"status": "device_lost", "progress": 0.0}), "/health")
        check(int(headers["Retry-After"]) >= 1, "Retry-After of /health")
        equal((s.figure("ds4_device_up"), s.losses()), (0, 1), "figures meanwhile")
        equal([s.ask(p)[0] for p in ("/", "/v1/models", "/props", "/slots")], [200] * 4, "pages that need no device")
        equal(s.ask("/v1/messages/count_tokens", chat("What is ds4?"))[0], 200, "counting tokens")

        wait_until(lambda: time.monotonic() > begin + 1.2)
        used, passed = cpu_seconds(s) - used, time.monotonic() - begin
        attempts = s.text().count("could not be opened again")
        most = next(n for n in range(1, 12) if passed < 0.25 * (2 ** n - 1))
        check(2 <= attempts <= most, "attempts", attempts, passed)
        check("the next attempt is in 1 s" in s.text(), "pauses grow", s.text()[-600:])
        check(used < passed / 2, "it spins", used, passed)

        device.back()
        s.healthy()
        equal((s.figure("ds4_device_up"), s.losses()), (1, 1), "figures after")
        equal(s.text_of(chat("What is ds4?")), said, "the answer after")
        equal(s.end(), 0, "exit code")


def cpu_seconds(s):
    """Of the process so far; 0 where that can not be read."""
    try:
        with open("/proc/%d/stat" % s.process.pid, encoding="ascii") as f:
            fields = f.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@on_far
def losses_with_no_answer_between_back_off(device):
    with Server(device) as s:
        for i in range(3):
            device.lose(1)
            equal(s.ask(CHAT, chat("What is ds4?"))[0], 500, "status")
            begin = time.monotonic()
            s.healthy()
            check(time.monotonic() - begin >= (0, 0.2, 0.4)[i], "no pause before opening number %d" % i)
        equal(s.text().count("no request was answered since it was opened last"), 2, "pauses that are told")
        s.text_of(chat("What is ds4?"))
        s.idle()
        device.lose(1)
        equal(s.ask(CHAT, chat("What is ds4?"))[0], 500, "status")
        s.healthy()
        equal(s.text().count("no request was answered since it was opened last"), 2, "pauses after an answer")
        equal(s.losses(), 4, "losses")


@test
def a_device_that_fails_while_it_is_opened_again_is_tried_again():
    device = Device("mock")
    with Server(device) as s:
        device.lose(2, 60, 400)                         # in a step; streams and events are made; weights go up
        equal(s.ask(CHAT, chat("What is ds4?"))[0], 500, "status")
        s.healthy()
        equal(s.text().count("could not be opened again"), 2, "attempts that fail")
        equal(s.losses(), 1, "losses")
        check(s.text_of(chat("What is ds4?")).startswith("ds4 is"), "the answer after all of this")


# ---- conversations -----------------------------------------------------------------------------

@on_both
def a_conversation_goes_on_with_the_same_words(device):
    with Server(device) as s:
        first = s.text_of(chat("What is ds4?"))
        turn = chat("What is ds4?", first, "Why?")
        live = s.text_of(turn)
        check(live, "no answer")
        s.idle()
        device.lose(2)
        equal(s.ask(CHAT, turn)[0], 500, "status")
        s.healthy()
        equal(s.text_of(turn), live, "the answer after the loss")
        s.text_of(dict(turn, max_tokens=1))
        check(re.search(r"reuse=cold [^\n]*\n[^\n]*\n[^\n]*reuse=live", s.text()), "what was computed is used",
              s.text()[-600:])


@on_far
def a_conversation_on_disk_is_found_there(device):
    folder = path_of("kv-far")
    instruction = " ".join("Sentence number %d of a long instruction." % i for i in range(90))
    turn = chat(instruction, "Yes.", "What is ds4?")
    with Server(device, "--kv-disk-dir", folder, "-c", "4096") as s:
        said = s.text_of(turn)
        check(wait_until(lambda: s.figure("ds4_kv_disk_files") > 0), "nothing was saved")
        s.idle()
        device.lose()
        equal(s.ask(CHAT, turn)[0], 500, "status")
        s.healthy()
        status, _, text = s.ask(CHAT, turn)
        equal(status, 200, "status")
        equal(json.loads(text)["choices"][0]["message"]["content"], said, "the answer after the loss")
        check(json.loads(text)["usage"]["prompt_tokens_details"]["cached_tokens"] >= 512, "nothing was found", text)
        equal(s.figure("ds4_kv_corrupt_total"), 0, "checkpoints that are taken for bad")
        equal(s.end(), 0, "exit code")


@on_far
def many_clients_meet_many_losses(device):
    """Each gets an answer or an error in the form of its dialect; nothing is left behind."""
    stop = time.monotonic() + 2
    rng = random.Random(7)

    def client(seed):
        own, seen = random.Random(seed), set()
        while time.monotonic() < stop:
            path = own.choice(DIALECTS)
            stream = own.random() < 0.5
            body = body_of(path, stream=stream)
            body["max_output_tokens" if path == RESPONSES else "max_tokens"] = own.randrange(1, 30)
            status, headers, text = s.ask(path, body)
            check(status in (200, 500, 503), "status", status, text)
            check(status != 503 or int(headers["Retry-After"]) >= 1, "Retry-After")
            failed = status != 200 or '"error":{' in text
            check(not failed or device.says in text or device.missing in text, "the sentence", text[-300:])
            seen.add((status, failed))
        return seen

    with Server(device, "--slots", "3", "--kv-disk-dir", path_of("kv-many"), "--kv-cache-min-tokens", "4") as s, \
            concurrent.futures.ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, i) for i in range(6)]
        while time.monotonic() < stop:
            if rng.random() < 0.3:
                device.away()
            device.lose(rng.randrange(40))
            time.sleep(rng.uniform(0.05, 0.2))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(device.fate, "away"))
            time.sleep(rng.uniform(0.05, 0.2))
        seen = set().union(*(c.result() for c in clients))
        check((200, False) in seen and any(failed for _, failed in seen), "what clients met", seen)
        device.back()                                   # a loss that was taken in time still comes
        check(wait_until(lambda: s.ask(CHAT, chat("word " * 60, max_tokens=60))[0] == 200), "it does not come back")
        s.healthy()
        check(s.losses() >= 1, "losses", s.losses())
        check(s.text_of(chat("What is ds4?")).startswith("ds4 is"), "the answer after all of this")
        s.idle()
        equal(s.figure("ds4_slots_busy"), 0, "busy slots")
        equal(s.end(), 0, "exit code")


# ---- the end -------------------------------------------------------------------------------------

@on_both
def a_signal_while_it_is_away_ends_it_cleanly(device):
    with Server(device) as s:
        device.away()
        device.lose(2)
        equal(s.ask(CHAT, chat("What is ds4?"))[0], 500, "status")
        check(wait_until(lambda: s.text().count("could not be opened again") == 3), "no attempts", s.text()[-400:])
        begin = time.monotonic()                        # the next one is a second away
        equal(s.end(), 0, "exit code")
        check(time.monotonic() - begin < 0.9 or THREADS, "it waited for the next attempt")
        check("shutting down" in s.text(), "the log", s.text()[-300:])


@test
def a_signal_while_weights_go_up_again_does_not_wait_for_them():
    device, model = Device("mock"), path_of("broad.gguf")
    gguf = os.path.join(BIN, "ds4-gguf")
    if not os.path.exists(gguf):
        raise Skip("%s is not built" % gguf)
    subprocess.run([gguf, "synth", "--shape", "tiny", "--mix", "q2", "--layers", "12", "--experts", "64", "-q", "-o",
                    model],
                   check=True, timeout=PATIENCE)
    with Server(device, "-m", model, "-c", "256") as s:
        told = lambda: json.loads(s.ask("/health")[2]).get("progress", 1)
        for _ in range(5):
            device.lose(2)
            equal(s.ask(CHAT, chat("a"))[0], 500, "status")
            check(wait_until(lambda: told() > 0), "no progress")
            if told() < 1:                              # else this process had to wait for the processor
                break
            s.healthy()
        equal(s.end(), 0, "exit code")
        check(not re.search("shutting down[^\n]*\n.*(open again|could not)", s.text(), re.S), "the log", s.text()[-400:])


@on_both
def a_loss_while_it_ends_is_told_and_ends_it_cleanly(device):
    with Server(device, *SLOWLY, "--kv-disk-dir", path_of("kv-end"), "--kv-cache-min-tokens", "4") as s:
        s.text_of(chat("What is ds4?"))
        s.idle()
        answer = s.open(TEXT, dict(ENDLESS, stream=True))
        text = first_words(answer)
        s.process.send_signal(signal.SIGTERM)
        s.wait_for("shutting down")
        device.lose()
        text += answer.read().decode()
        check(device.says in text and text.endswith("data: [DONE]\n\n"), "the end of the stream", text[-300:])
        equal(s.process.wait(PATIENCE), 0, "exit code")


@test
def conversations_that_can_not_be_saved_at_the_end_are_told_of():
    device = Device("mock")
    folder = path_of("kv-unsaved")
    with Server(device, "--kv-disk-dir", folder, "--kv-cache-min-tokens", "4") as s:
        s.text_of(chat("What is ds4?"))
        s.idle()
        device.lose()
        equal(s.end(), 0, "exit code")
        check("slot=0 not saved: " in s.text() and device.says in s.text(), "the log", s.text()[-600:])
        check(not any(n.endswith(".kv") for _, _, names in os.walk(folder) for n in names),
              "a file of rows that are lost")


if __name__ == "__main__":
    sys.exit(harness.main())
