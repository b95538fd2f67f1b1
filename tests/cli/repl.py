"""The conversation at a terminal, typed into a pseudo terminal."""
import fcntl
import os
import pty
import re
import select
import signal
import stat
import struct
import sys
import termios
import time

from harness import DS4, PATIENCE, SLOW, THREADS, Skip, check, environment, equal, main, model, path_of, scratch, test

PROMPT = b"ds4> "
BOLD_PROMPT = b"ds4>\033[0m "


class Terminal:
    """ds4 behind a terminal of its own. send() types; wait() reads until the words
    stand in what came since the last wait."""

    def __init__(self, *args, rows=24, columns=80, command=None, **env):
        env = environment(**{"NO_COLOR": "1", "DS4_HISTORY": "", **env})
        argv = command or [DS4, "-m", model(), "--ctx", "4096", "--seed", "1", "-n", "20", *THREADS, *args]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(scratch())
            os.execve(argv[0], argv, env)
        self.resize(rows, columns)
        self.all = b""
        self.read_to = 0
        self.code = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.code is None:
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except OSError:
                pass
        os.close(self.fd)

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def modes(self):
        return termios.tcgetattr(self.fd)[:4]

    def send(self, keys):
        os.write(self.fd, keys if isinstance(keys, bytes) else keys.encode())

    def pump(self, seconds):
        """Reads what comes within the time; False when the program's side is closed."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            piece = os.read(self.fd, 65536)
        except OSError:
            return False
        self.all += piece
        return bool(piece)

    def wait(self, words, seconds=PATIENCE):
        end = time.monotonic() + seconds
        while True:
            at = self.all.find(words, self.read_to)
            if at >= 0:
                seen = self.all[self.read_to:at + len(words)]
                self.read_to = at + len(words)
                return seen
            alive = self.pump(0.1)
            if words not in self.all[self.read_to:] and (not alive or time.monotonic() > end):
                raise AssertionError("%r did not come after %r" % (words, self.all[-300:]))

    def prompt(self):
        return self.wait(PROMPT)

    def type(self, text):
        """Waits for the echo: a key that makes a signal throws away unread input."""
        self.send(text)
        self.wait(text.encode())

    def say(self, line):
        """A line, and everything up to the next prompt."""
        self.send(line + "\r")
        return self.prompt()

    def end(self):
        """The exit code once the program has ended by itself."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.pump(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                while select.select([self.fd], [], [], 0)[0] and self.pump(0):
                    pass
                self.code = os.waitstatus_to_exitcode(status)
                return self.code
        raise AssertionError("ds4 did not end: %r" % self.all[-300:])


def tokens(t):
    m = re.search(rb"(\d+) tokens used", t.say("/tokens"))
    check(m, "/tokens answers")
    return int(m.group(1))


# ---- the conversation ---------------------------------------------------------

@test
def answers_and_leaves_at_ctrl_d():
    with Terminal() as t:
        t.prompt()
        first = tokens(t)
        equal(first, 0, "tokens before the first turn")
        answer = t.say("Hello")
        check(b"[thinking]\r\n" in answer and b"[/thinking]\r\n" in answer, "reasoning is set off", answer)
        second = tokens(t)
        t.say("And more")
        check(tokens(t) > second > 20, "the transcript grows")
        check(b"prefill" in t.say("/stats"), "timings of the last turn")
        t.send(b"\x04")
        equal(t.end(), 0, "exit code")


@test
def commands_of_the_list():
    with Terminal("--nothink") as t:
        t.prompt()
        listed = t.say("/help")
        for name in ("think", "think-max", "nothink", "ctx", "read", "system", "reset", "undo", "retry", "save", "load",
                     "tokens", "stats", "set", "quit"):
            check(b"/" + name.encode() in listed, "/help names /" + name)
        check(b"Unknown command /nonsense" in t.say("/nonsense"), "unknown command")
        equal(tokens(t), 0, "tokens after an unknown command")
        check(b"Thinking mode: on." in t.say("/think"), "/think")
        check(b"Thinking mode: high (ctx below 393216)." in t.say("/think-max"), "/think-max")
        check(b"Thinking mode: off." in t.say("/nothink"), "/nothink")
        check(b"temp 0.5" in t.say("/set temp 0.5"), "/set")
        check(b"top-k 7" in t.say("/set top-k 7"), "/set")
        for wrong in ("/set temp hot", "/set top-p 2", "/set speed 9", "/set n 0", "/set top-k 1.5"):
            check(b"/set KEY VALUE" in t.say(wrong), wrong)
        t.say("//etc/passwd is a file")
        check(tokens(t) > 10, "a line with two slashes is sent")
        check(b"New conversation." in t.say("/reset"), "/reset")
        equal(tokens(t), 0, "tokens after /reset")
        check(b"nothing to undo" in t.say("/undo"), "/undo of nothing")
        check(b"no answer" in t.say("/retry"), "/retry of nothing")
        t.send("/exit\r")
        equal(t.end(), 0, "exit code")


@test
def undo_and_retry_return_to_kept_points():
    with Terminal("--nothink", "-v") as t:
        t.prompt()
        t.say("First message, long enough to be worth keeping.")
        one = tokens(t)
        t.say("Second message.")
        two = tokens(t)
        t.say("/undo")
        equal(tokens(t), one, "tokens after /undo")
        t.say("Second message.")
        fed = int(re.search(rb"prefill (\d+) tokens", t.say("/stats")).group(1))
        check(fed < one, "the first turn is not computed again", fed, one)
        t.say("/retry")
        fed = int(re.search(rb"prefill (\d+) tokens", t.say("/stats")).group(1))
        equal(fed, 0, "tokens computed again by /retry")
        check(abs(tokens(t) - two) <= 20, "one answer in place of the other")
        t.say("/undo")
        t.say("/undo")
        equal(tokens(t), 0, "tokens after two /undo")


@test
def greedy_answers_survive_undo_and_a_new_context():
    def answer(t, text):
        seen = re.sub(rb"\r\033\[K(prefill[^\r]*)?", b"", t.say(text))   # a slow build shows progress
        return seen[seen.index(b"\r\n") + 2:]

    with Terminal("--nothink", "--temp", "0") as t:
        t.prompt()
        answer(t, "One.")
        want = answer(t, "Two.")
        t.say("/undo")
        answer(t, "Something else, and longer than the other.")
        t.say("/undo")
        equal(answer(t, "Two."), want, "the answer after /undo")
        t.say("/undo")
        check(b"Context: 1000 tokens;" in t.say("/ctx 1000"), "/ctx")
        equal(answer(t, "Two."), want, "the answer in another context")
        check(b"does not fit" in t.say("/ctx 10"), "/ctx too small")
        check(b"needs a number" in t.say("/ctx many"), "/ctx of no number")
        check(b"of 1000" in t.say("/tokens"), "the context stays")


@test
def a_change_of_prefix_computes_again():
    with Terminal("--think-max-min-ctx", "0") as t:
        t.prompt()
        t.say("Hello")
        before = tokens(t)
        said = t.say("/think-max")
        check(b"Thinking mode: max." in said and b"computed again" in said, "says so", said)
        check(tokens(t) > before, "the header is longer")
        t.say("Next")
        fed = int(re.search(rb"prefill (\d+) tokens", t.say("/stats")).group(1))
        check(fed > before, "all of it was computed", fed, before)
        t.say("/think")
        dropped = t.say("/compact-thinking")
        check(re.search(rb"[1-9]\d* tokens of reasoning dropped", dropped), "/compact-thinking", dropped)
        t.say("And on")


FAR = os.path.join(os.path.dirname(DS4), "ds4-far")     # whose device can be lost


def far_command():
    return [FAR, "-m", model(), "--backend", "cuda", "--ctx", "4096", "--seed", "1", "-n", "20", *THREADS]


@test
def a_lost_device_is_opened_again_and_the_conversation_goes_on():
    with Terminal(command=far_command(), FAR_FAIL_STEP="12") as t:
        t.prompt()
        said = t.say("Hello")
        check(b"stopped answering" in said and b"opening it again" in said, "says what happened", said)
        before = tokens(t)
        check(before > 10, "the turn is kept", before)
        said = t.say("And more")
        check(b"stopped answering" not in said, "answers", said)
        fed = int(re.search(rb"prefill (\d+) tokens", t.say("/stats")).group(1))
        check(fed > before, "all of it was computed", fed, before)
        t.send(b"\x04")
        equal(t.end(), 0, "exit code")


@test
def a_device_that_does_not_come_back_ends_the_conversation():
    with Terminal(command=far_command(), FAR_FAIL_STEP="12", FAR_FAIL_OPENS="1") as t:
        t.prompt()
        t.send("Hello\r")
        t.wait(b"does not come back")
        equal(t.end(), 1, "exit code")


@test
def files_and_checkpoints():
    saved, text = path_of("talk.kvc"), path_of("three.txt", "one\ntwo\nthree\n")
    if os.path.exists(saved):
        os.remove(saved)
    with Terminal("--nothink") as t:
        t.prompt()
        t.say("/read " + text)
        n = tokens(t)
        check(n > 10, "the file was sent")
        check(b"no such file" in t.say("/read /nonexistent/f"), "/read of nothing")
        check(b"Saved" in t.say("/save " + saved), "/save")
        t.say("/reset")
        check(b"Loaded" in t.say("/load " + saved), "/load")
        equal(tokens(t), n, "tokens after /load")
        t.say("Go on")
        check(tokens(t) > n, "the loaded conversation goes on")
        t.say("/undo")
        equal(tokens(t), n, "/undo finds the turns of a loaded conversation")
        check(b"/nonexistent/s" in t.say("/load /nonexistent/s"), "/load of nothing")


@test
def a_new_system_message_starts_again():
    with Terminal("--nothink") as t:
        t.prompt()
        t.say("Hello")
        t.say("/system You are a pirate, and you always answer in the longest way possible.")
        equal(tokens(t), 0, "tokens after /system")
        t.say("Hello")
        with_pirate = tokens(t)
        t.say("/system")
        t.say("Hello")
        check(tokens(t) < with_pirate, "without a system message the prompt is shorter")


@test
def a_full_context_says_what_to_do():
    with Terminal("--nothink", "--ctx", "200", "-n", "1000") as t:
        t.prompt()
        text = path_of("long.txt", "word " * 1000)
        check(b"[context full: 200 tokens; /reset, /undo or start with a larger --ctx]" in t.say("/read " + text),
              "a message that does not fit")
        equal(tokens(t), 0, "tokens after it")
        full = b""
        for _ in range(20):
            full = t.say("More")
            if b"[context full" in full:
                break
        check(b"[context full: 200 tokens" in full, "an answer that does not fit", full)
        t.say("/undo")
        check(tokens(t) < 200, "/undo makes room")


# ---- typing -------------------------------------------------------------------

@test
def a_paste_of_three_lines_is_one_message():
    history = path_of("paste-history")
    with Terminal("--nothink", DS4_HISTORY=history) as t:
        t.prompt()
        check(b"\033[?2004h" in t.all, "bracketed paste is on at the prompt")
        t.send(b"\033[200~line one\rline two\r\nline three\n\033[201~")
        t.wait(b"line three")
        t.send("\r")
        t.wait(b"\033[?2004l")
        t.prompt()
        with open(history) as f:
            equal(f.read(), "line one\\nline two\\nline three\\n\n", "history")


@test
def lines_continue_by_backslash_and_alt_enter():
    history = path_of("lines-history")
    with Terminal("--nothink", DS4_HISTORY=history) as t:
        t.prompt()
        t.send("first\\\r")
        t.wait(b"...> ")
        t.say("second")
        t.send(b"up\033\rdown")
        t.wait(b"down")
        t.say("")
        with open(history) as f:
            equal(f.read(), "first\\nsecond\nup\\ndown\n", "history")


@test
def editing_keys_and_wide_characters():
    history = path_of("keys-history")
    with Terminal("--nothink", DS4_HISTORY=history) as t:
        t.prompt()
        t.say("é中x\x7f!")                       # backspace takes one character
        t.say("bc\x01a\x05d")                    # home, end
        t.say("one two\x17three")                # Ctrl-W
        t.say("gone\x15kept")                    # Ctrl-U
        t.say("ab\x1b[Dc\x1b[Hd\x1b[Fe")         # left, home, end
        with open(history, encoding="utf-8") as f:
            equal(f.read(), "é中!\nabcd\none three\nkept\ndacbe\n", "history")


@test
def tab_completes_commands_and_files():
    folder = path_of("tab")
    os.makedirs(os.path.join(folder, "sub"), exist_ok=True)
    for name in ("alpha.txt", "alphabet.txt", ".hidden"):
        with open(os.path.join(folder, name), "w") as f:
            f.write("x")
    history = path_of("tab-history")
    with Terminal("--nothink", DS4_HISTORY=history) as t:
        t.prompt()
        t.say("/tok\t")
        t.send("/thi\t\t")
        t.wait(b"/think  /think-max")
        t.prompt()                               # the line again, below the list
        t.say("")
        t.send("/read %s/al\t\t" % folder)
        t.wait(b"alphabet.txt")
        t.prompt()
        t.say(".\t")
        t.say("/read %s/s\t" % folder)
        with open(history) as f:
            equal(f.read().splitlines(),
                  ["/tokens ", "/think", "/read %s/alpha.txt" % folder, "/read %s/sub/" % folder], "history")


@test
def history_file_follows_the_rules():
    history = path_of("rules-history", "".join("old %d\n" % i for i in range(600)))
    os.chmod(history, 0o644)
    with Terminal(DS4_HISTORY=history) as t:
        t.prompt()
        for line in ("/tokens", "/tokens", " /stats", "/help", "/tokens"):
            t.say(line)
        t.send("\033[A\033[A")                   # two lines up is /help
        t.wait(b"help")
        t.say("")
        t.send("\x04")
        equal(t.end(), 0, "exit code")
    equal(stat.S_IMODE(os.stat(history).st_mode), 0o600, "mode")
    with open(history) as f:
        lines = f.read().splitlines()
    equal(lines[-4:], ["/tokens", "/help", "/tokens", "/help"], "no repetition, no leading blank")
    equal(lines[0], "old 88", "only the last 512 old lines stay")

    with Terminal(DS4_HISTORY=history) as t:
        t.prompt()
        t.send("\x12old 59\r")                   # Ctrl-R finds an entry of an earlier run
        t.wait(b"old 599")
        t.prompt()

    here = os.path.join(scratch(), ".ds4_history")
    with Terminal(DS4_HISTORY="") as t:
        t.prompt()
        t.say("/tokens")
        t.send("\x04")
        t.end()
    check(not os.path.exists(here), "an empty DS4_HISTORY keeps nothing")
    with Terminal(DS4_HISTORY=None) as t:
        t.prompt()
        t.say("/tokens")
        t.send("\x04")
        t.end()
    equal(stat.S_IMODE(os.stat(here).st_mode), 0o600, "mode of ~/.ds4_history")


@test
def colours_only_where_wanted():
    with Terminal(NO_COLOR=None) as t:
        t.wait(BOLD_PROMPT)
        t.send("Hello\r")
        t.wait(b"\033[2m")
        t.wait(b"\033[0m")
        t.wait(BOLD_PROMPT)
    with Terminal(NO_COLOR="1") as t:
        t.prompt()
        answer = t.say("Hello")
        check(not re.search(rb"\033\[[0-9;]*m", t.all), "no colours with NO_COLOR", t.all)
        check(b"[thinking]" in answer, "marker lines instead")
    with Terminal("--color", "always", NO_COLOR="1") as t:
        t.wait(BOLD_PROMPT)


@test
def control_characters_do_not_reach_the_terminal():
    with Terminal("--nothink", "-n", "150") as t:
        t.prompt()
        answer = t.say("Hello")
        body = re.sub(rb"\033\[(\?2004[hl]|K|\d*G)", b"", answer)
        check(not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", body), "only printable bytes", body)


# ---- interrupts ---------------------------------------------------------------

@test
def ctrl_c_clears_the_line_and_twice_leaves():
    with Terminal() as t:
        t.prompt()
        t.type("never sent")
        t.send("\x03")
        t.prompt()
        equal(tokens(t), 0, "tokens")
        time.sleep(1.1)
        t.send("\x03")
        t.prompt()
        time.sleep(1.2)
        t.send("\x03")
        t.prompt()
        t.send("\x03")
        equal(t.end(), 130, "exit code")


@test
def ctrl_c_while_answering_closes_the_turn():
    with Terminal("-n", "3000", *SLOW) as t:
        t.prompt()
        t.send("Hello\r")
        t.wait(b"[thinking]\r\n")
        t.send("\x03")
        t.wait(b"[interrupted]")
        t.prompt()
        before = tokens(t)
        check(before > 20, "the turn stays")
        t.say("/set n 5")
        t.say("Next")
        check(before < tokens(t) < before + 60, "the conversation goes on")


@test
def ctrl_c_while_reading_a_prompt():
    text = path_of("long.txt", "The quick brown fox jumps over the lazy dog. " * 2000)
    with Terminal("--ctx", "100000", "--prefill-chunk", "1", "--nothink", *SLOW) as t:
        t.prompt()
        t.send("/read %s\r" % text)
        t.wait(b"prefill  [")                   # the progress line
        t.resize(24, 60)
        t.wait(b" t/s")
        t.send("\x03")
        seen = t.wait(b"[interrupted]")
        check(b"\r\033[K" in seen, "the progress line is erased", seen[-100:])
        t.prompt()
        t.say("/undo")
        equal(tokens(t), 0, "tokens after /undo")
        t.say("Hello")


@test
def ctrl_c_while_loading_is_130():
    with Terminal("--warm-weights") as t:
        t.wait(b"ds4: model")
        t.send("\x03")
        equal(t.end(), 130, "exit code")


# ---- the terminal -------------------------------------------------------------

@test
def modes_come_back_on_every_way_out():
    for keys, sig, code in (("\x04", None, 0), ("/quit\r", None, 0), ("half a line", None, 130),
                            (None, signal.SIGTERM, -signal.SIGTERM), (None, signal.SIGHUP, -signal.SIGHUP),
                            (None, signal.SIGQUIT, -signal.SIGQUIT)):
        with Terminal() as t:
            before = t.modes()
            t.prompt()
            check(t.modes() != before, "the editor changes the modes")
            if keys == "half a line":
                t.type("half a line")
                t.send("\x03")
                t.prompt()
                t.send("\x03")
                t.prompt()
                t.send("\x03")
            elif keys:
                t.send(keys)
            else:
                os.kill(t.pid, sig)
            # The far side must be open while the program restores.
            equal(t.end(), code, "exit code of %r %r" % (keys, sig))
            equal(t.modes(), before, "modes after %r %r" % (keys, sig))
            check(t.all.rfind(b"\033[?2004l") > t.all.rfind(b"\033[?2004h"), "bracketed paste is off")


# A shell of a few lines: runs ds4 as a job, says when it stops, and continues it.
SHELL = """
import os, signal, sys, termios
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
os.setpgid(pid, pid)
while True:
    _, status = os.waitpid(pid, os.WUNTRACED)
    os.tcsetpgrp(0, os.getpgrp())
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    print("STOPPED", bool(termios.tcgetattr(0)[3] & termios.ICANON), flush=True)
    os.tcsetpgrp(0, pid)
    os.killpg(pid, signal.SIGCONT)
"""


@test
def ctrl_z_gives_the_terminal_back():
    command = [sys.executable, "-c", SHELL, DS4, "-m", model(), "--ctx", "4096", "--nothink", "-n", "5"]
    with Terminal(command=command) as t:
        t.prompt()
        t.type("half ")
        t.send("\x1a")
        t.wait(b"STOPPED True")
        t.wait(b"half ")
        t.say("done")
        t.send("\x04")
        equal(t.end(), 0, "exit code")


@test
def resizing_at_the_prompt():
    history = path_of("resize-history")
    with Terminal(DS4_HISTORY=history, columns=100) as t:
        t.prompt()
        t.send("/set a line that is longer than the window will be in a moment, and it goes on")
        t.wait(b"goes on")
        t.resize(24, 40)
        t.wait(b"ds4> ")                         # redrawn
        t.send("!\r")
        t.wait(b"/set KEY VALUE")
        with open(history) as f:
            equal(f.read(), "/set a line that is longer than the window will be in a moment, and it goes on!\n",
                  "history")


@test
def a_dumb_terminal_works_too():
    with Terminal("--nothink", TERM="dumb") as t:
        t.prompt()
        t.say("Hello")
        check(b"\033" not in t.all, "no escape sequences", t.all)
        t.send("\x04")
        equal(t.end(), 0, "exit code")


@test
def one_shot_on_a_terminal():
    with Terminal("-p", "Hello") as t:
        equal(t.end(), 0, "exit code")
        check(b"[thinking]\r\n" in t.all, "reasoning is shown on a terminal", t.all)
        check(b"generation" in t.all, "statistics at the end")
    with Terminal("-p", "Hello", "-n", "3000", "--nothink", NO_COLOR=None) as t:
        t.wait(b"on cpu")
        t.send("\x03")
        check(t.end() in (0, 130), "exit code", t.code)


if not os.path.exists(DS4):
    @test
    def built():
        raise Skip("%s is not built" % DS4)

main()
