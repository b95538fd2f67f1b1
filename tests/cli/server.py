"""ds4-server as a process: flags and exit codes, start-up, signals, files. What it answers is tested in
tests/server; here it is enough that it answers."""
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys

import harness
from harness import PATIENCE, Skip, check, environment, equal, path_of, scratch, test, wait_until
from serving import MODEL, SERVER, Running


def call(*args, env=None):
    """Runs it to its end."""
    if not os.path.exists(SERVER):
        raise Skip("%s is not built" % SERVER)
    p = subprocess.run([SERVER, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       env=env or environment(), cwd=scratch(), timeout=PATIENCE)
    return harness.Result(p.returncode, p.stdout.decode(), p.stderr.decode("utf-8", "replace"))


def expect(result, code, *words):
    harness.expect_exit(result, code, *words)


# ---- flags -----------------------------------------------------------------------------------

@test
def help_and_version_go_to_stdout():
    r = call("--help")
    equal(r.code, 0, "exit code")
    for topic in ("address", "model", "slots", "cache", "answers", "thinking", "sampling", "limits", "running"):
        check(re.search(r"^%s" % topic, r.out, re.M | re.I), "no topic %s" % topic)
    check(max(map(len, r.out.splitlines())) <= 80, "a line of the help is longer than 80 columns")
    check("--kv-disk-dir" in call("--help", "cache").out, "no --kv-disk-dir in its topic")
    expect(call("--help", "nothing"), 2, "topics are")
    check(call("--version").out.startswith("ds4-server "), "the version does not begin with the name")


@test
def wrong_flags_are_told_in_a_line():
    expect(call("--prot", "1"), 2, "--prot", "try --help")
    expect(call("--port", "70000"), 2, "--port: expected a number up to 65535")
    expect(call("--slots", "0"), 2, "--slots: expected")
    expect(call("--drain-secs", "2147484"), 2, "--drain-secs: a day")
    expect(call("--stream-defer-ms", "2g"), 2, "--stream-defer-ms: a day")
    expect(call("--slot-ctx", "9000", "-c", "4096"), 2, "--slot-ctx: 9000 is more than the context")
    expect(call("--log-format", "xml"), 2, "--log-format")
    expect(call("--api-key="), 2, "an empty key is no key")
    expect(call("--allow-origin", "localhost:3000"), 2, "--allow-origin: expected an origin")
    expect(call("--cors=http://a.example/"), 2, "--cors: expected an origin")
    expect(call("operand"), 2, "operand: unexpected argument")
    expect(call("--quiet", "--verbose"), 2, "contradicts")
    expect(call("--scrub", "(", "-m", MODEL), 2)


@test
def a_backend_that_is_not_there_ends_it():
    expect(call("--backend", "cuda", "--port", "0", "-m", MODEL), 3, "built without CUDA kernels", "`make cuda`")


@test
def check_reads_the_header_and_leaves():
    expect(call("--check", "-m", MODEL), 0, "memory:", "in order")
    expect(call("--check", "-m", "missing.gguf"), 3, "missing.gguf")
    expect(call("--check", "-m", path_of("no.gguf", "not a model")), 3)
    expect(call("--check", "-m", MODEL, "--api-key-file", "missing"), 1, "missing")
    expect(call("--check", "-m", MODEL, "--api-key-file", path_of("none", "# nothing\n")), 1, "holds no key")
    expect(call("--check", "-m", MODEL, "--kv-disk-dir", path_of("file", "no folder")), 1, "--kv-disk-dir", "file")


@test
def the_command_line_beats_the_file_and_the_file_the_environment():
    config = path_of("server.conf",
                     "# flags\nmodel = %s\nctx=2048\n\nstrict-model = true\nmetrics-public = off\nalias = a\nalias=b\n" % MODEL)
    with Running("--config", config, env=environment(DS4_CTX="1024"), port=True) as s:
        s.serving()
        equal(json.loads(s.get("/props")[1])["ctx"], 4096, "ctx")        # -c of the command line
        equal([m["id"] for m in json.loads(s.get("/v1/models")[1])["data"]], ["deepseek-v4-flash", "a", "b"], "models")
        equal(s.get("/v1/chat/completions", '{"model":"x","messages":[{"role":"user","content":"hi"}]}')[0], 404,
              "another model")
    expect(call("--config", path_of("bad.conf", "ctx = 10\nnothing = 1\n")), 2, "bad.conf:2", "nothing")
    expect(call("--config", path_of("bad2.conf", "strict-model = perhaps\n")), 2, "bad2.conf:1", "true or false")
    expect(call("--config", path_of("bad3.conf", "ctx = many\n")), 2, "bad3.conf: --ctx: expected")
    expect(call("--config", path_of("bad4.conf", "ctx = 10\nslots\n"), "--port", "0"), 2, "bad4.conf:2", "slots: needs")
    expect(call("--config", "missing.conf"), 1, "missing.conf")


# ---- start and end -----------------------------------------------------------------------------

@test
def it_says_where_it_listens_and_what_clients_want():
    with Running() as s:
        s.serving()
        check(s.url.startswith("http://127.0.0.1:") and not s.url.endswith(":0"), "the url", s.url)
        s.wait_for("base URL %s/v1" % s.url)
        s.wait_for("ANTHROPIC_BASE_URL=%s" % s.url)
        equal(s.get("/health"), (200, '{"status":"ok"}'), "health")
        check("--api-key" not in s.text(), "a warning about keys on a loopback address")
        equal(s.end(), 0, "exit code")


@test
def the_slot_for_titles_is_shown_and_not_counted():
    with Running("--slots", "2", "-c", "2048") as s:
        s.serving()
        equal([slot["side"] for slot in json.loads(s.get("/slots")[1])], [False, False, True], "slots")
        title = {"messages": [{"role": "user", "content": "What is ds4?"}], "max_tokens": 8}
        equal(s.get("/v1/chat/completions", json.dumps(title))[0], 200, "status")
        page = s.get("/metrics")[1]
        for name, value in ("ds4_slots_total", "2"), ("ds4_kv_capacity_tokens", "4096"):
            check(re.search(r"^%s\{[^}]*\} %s$" % (name, value), page, re.M), "no %s of %s" % (name, value))


@test
def reasoning_goes_into_the_field_that_is_asked_for():
    fields = {"reasoning_content": ["reasoning_content"], "reasoning": ["reasoning"],
              "both": ["reasoning", "reasoning_content"], "none": []}
    question = {"messages": [{"role": "user", "content": "What is ds4?"}], "max_tokens": 4}
    for flag, names in fields.items():
        with Running("--reasoning-field", flag) as s:
            s.serving()
            message = json.loads(s.get("/v1/chat/completions", json.dumps(question))[1])["choices"][0]["message"]
            equal(sorted(n for n in message if n.startswith("reasoning")), names, "fields of " + flag)
            text = s.get("/v1/chat/completions", json.dumps(dict(question, stream=True)))[1]
            equal(sorted(set(re.findall(r'"(reasoning\w*)":"', text))), names, "streamed fields of " + flag)


@test
def a_taken_port_is_told_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        expect(call("-m", MODEL, "--port", str(port)), 6, "127.0.0.1:%d" % port)


@test
def an_address_that_others_reach_is_warned_about_without_a_key():
    with Running("--host", "0.0.0.0") as s:
        s.wait_for("there is no --api-key")
        s.wait_for("health and figures")
        equal(s.end(), 0, "exit code")


@test
def a_socket_file_takes_the_place_of_the_port():
    path = path_of("ds4.sock")
    with Running("--unix", path, port=False) as s:
        s.wait_for("listening on " + path)
        s.wait_for("context 4096")
        check("http://127" not in s.text(), "it listens on a port too")
        with socket.socket(socket.AF_UNIX) as c:
            c.connect(path)
            c.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            check(b"200 OK" in c.recv(100), "no answer")
        equal(s.end(), 0, "exit code")
    check(not os.path.exists(path), "the socket file is still there")


@test
def the_service_manager_is_told():
    path = path_of("notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(PATIENCE)
        with Running(env=environment(NOTIFY_SOCKET=path)) as s:
            equal(manager.recv(100), b"READY=1", "at the start")
            s.serving()
            equal(s.end(), 0, "exit code")
            equal(manager.recv(100), b"STOPPING=1", "at the end")


@test
def an_interrupt_ends_it_too():
    with Running() as s:
        s.serving()
        equal(s.end(signal.SIGINT), 0, "exit code")


@test
def a_second_signal_does_not_wait():
    with Running() as s:
        s.serving()
        host, port = s.url[len("http://"):].split(":")
        with socket.create_connection((host, int(port))) as c:
            body = b'{"prompt":"a","max_tokens":4000,"stream":true}'
            c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), b""))
            s.process.send_signal(signal.SIGTERM)       # the body never comes, so the request does not end
            s.wait_for("shutting down")
            equal(s.end(), 128 + signal.SIGTERM, "exit code")


# ---- files -------------------------------------------------------------------------------------

@test
def keys_are_read_again_on_a_hangup():
    keys = path_of("keys", "# mine\nfirst\n  second \n")
    with Running("--api-key-file", keys) as s:
        s.serving()
        equal(s.get("/v1/models")[0], 401, "without a key")
        equal(s.get("/v1/models", Authorization="Bearer second")[0], 200, "with a key")
        path_of("keys", "third\n")
        s.process.send_signal(signal.SIGHUP)
        s.wait_for("1 API keys are in force")
        equal(s.get("/v1/models", x_api_key="second")[0], 401, "with a former key")
        equal(s.get("/v1/models", x_api_key="third")[0], 200, "with the new key")
        path_of("keys", "")
        s.process.send_signal(signal.SIGHUP)
        s.wait_for("the keys stay as they were")
        equal(s.get("/v1/models", x_api_key="third")[0], 200, "with the new key")
        equal(s.end(), 0, "exit code")


CHAT = '{"messages":[{"role":"user","content":"What is ds4?"}],"max_tokens":8,"temperature":0}'


@test
def logs_can_be_rotated_and_traces_are_private():
    log, trace = path_of("requests.log"), path_of("trace.log", "of before\n")
    os.chmod(trace, 0o644)
    with Running("--log-file", log, "--log-format", "json", "--trace", trace) as s:
        s.serving()
        equal(s.get("/v1/chat/completions", CHAT)[0], 200, "status")
        check(wait_until(lambda: '"status":200' in open(log).read()), "no line")
        lines = [json.loads(l) for l in open(log).read().splitlines()]      # each of them
        check(any("reuse=cold" in l.get("message", "") for l in lines), "no decision of the cache")
        line = [l for l in lines if "route" in l][-1]
        equal((line["route"], line["finish"], line["generated_tokens"]), ("/v1/chat/completions", "length", 8),
              "the line")
        check("What is ds4?" not in open(log).read(), "the log holds text")
        check("What is ds4?" in open(trace).read(), "the trace holds no text")
        equal(os.stat(trace).st_mode & 0o777, 0o600, "mode of the trace")
        os.rename(log, log + ".1")
        s.process.send_signal(signal.SIGHUP)
        check(wait_until(lambda: os.path.exists(log)), "the log is not opened again")
        equal(s.get("/v1/nothing")[0], 404, "status")
        check(wait_until(lambda: '"status":404' in open(log).read()), "no line in the new file")
        equal(s.end(), 0, "exit code")


@test
def conversations_survive_a_restart():
    folder = path_of("kv")
    body = json.dumps({"messages": [{"role": "user", "content": "one two three " * 300}], "max_tokens": 8,
                       "temperature": 0})
    answers = []
    for turn in range(2):
        with Running("--kv-disk-dir", folder) as s:
            s.serving()
            status, text = s.get("/v1/chat/completions", body)
            equal(status, 200, "status")
            answers.append(json.loads(text))
            equal(s.end(), 0, "exit code")
    equal(answers[1]["choices"][0]["message"], answers[0]["choices"][0]["message"], "the answer")
    check(answers[1]["usage"]["prompt_tokens_details"]["cached_tokens"] >= 512, "nothing was reused",
          answers[1]["usage"])


@test
def the_state_key_is_made_once():
    path = path_of("state.key")
    for _ in range(2):
        with Running("--state-key", path) as s:
            s.serving()
            equal(s.end(), 0, "exit code")
    equal((os.path.getsize(path), os.stat(path).st_mode & 0o777), (32, 0o600), "size and mode")
    with Running("--state-key", path_of("short.key", "short")) as s:
        equal(s.process.wait(PATIENCE), 1, "exit code")
        s.wait_for("a state key has 32 bytes")


@test
def descriptors_are_taken_up_to_the_hard_limit():
    if not os.path.exists("/proc/self/limits"):
        raise Skip("limits of another process can not be read here")
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        hard = former[1] if 0 <= former[1] < 4096 else 4096     # less than what it asks for at most
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), former[1]))
        with Running() as s:
            s.serving()
            with open("/proc/%d/limits" % s.process.pid, encoding="ascii") as f:
                soft = re.search(r"^Max open files +(\S+)", f.read(), re.M).group(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)
    check(soft == "unlimited" or int(soft) >= hard, "the soft limit stays", soft)


if __name__ == "__main__":
    sys.exit(harness.main())
