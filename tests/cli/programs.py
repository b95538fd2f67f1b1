"""ds4 as other programs see it: flags, exit codes, pipes, dumps, checkpoints."""
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess

from harness import (BIN, DS4, PATIENCE, ROOT, SLOW, THREADS, Skip, check, ds4, environment, equal, expect_exit, main,
                     model, path_of, test)

NO_MODEL = ("-m", "/nonexistent/model.gguf")


def needs_program():
    if not os.path.exists(DS4):
        raise Skip("%s is not built" % DS4)


def run(*args, **more):
    """With the test model, a small context and a fixed seed."""
    return ds4("-m", model(), "--ctx", "4096", "--seed", "1", *THREADS, *args, **more)


# ---- flags --------------------------------------------------------------------

# A good value, a bad one (None: every text is good), and flags it needs beside it.
FLAGS = {
    "--model": ("x.gguf", None), "--ctx": ("100k", "abc"), "--backend": ("cpu", "metal"), "--device": ("0", "first"), "--threads": ("2", "0"),
    "--isa": ("avx2,avx512", "sse9"), "--kv-type": ("f32", "f8"), "--rounding": ("off", "maybe"),
    "--prefill-chunk": ("64", "-1"), "--chdir": ("/", None), "--prompt": ("hello", None),
    "--prompt-file": ("/dev/null", None), "--system": ("be brief", None), "--system-file": ("/dev/null", None),
    "--load": ("x", None), "--save": ("x", None), "--show-thinking": ("yes", "perhaps"),
    "--think-budget": ("100", "x"), "--think-max-min-ctx": ("0", "x"), "--effort-profile": ("0731", "winter"),
    "--numa": ("interleave", "maybe"), "--expert-cache": ("8g", "x"), "--temp": ("0.7", "warm"), "--top-p": ("0.9", "2"), "--min-p": ("0.1", "-1"), "--top-k": ("40", "x"),
    "--seed": ("42", "x"), "--tokens": ("10", "0"), "--stop": ("END", ""), "--color": ("never", "pink"),
    "--dump-logprobs": ("x.json", None), "--logprobs-top-k": ("5", "129"), "--dump-logits": ("x.f32", None),
    "--token-ids": ("x.json", None, "--print-ids"), "--perplexity-file": ("x.txt", None),
    "--dump-tokens": (None, "raw"),
}
SWITCHES = {
    "--quality": (), "--warm-weights": (), "--huge-pages": (), "--raw": (), "--think": (), "--think-max": (), "--nothink": (),
    "--json": (), "--quiet": (), "--verbose": (), "--inspect": (), "--print-ids": (),
    "--all-positions": ("--dump-logits", "x.f32"),
}


@test
def every_flag_parses_in_both_spellings():
    needs_program()
    listed = set(re.findall(r"--[a-z0-9][a-z0-9-]*", ds4("--help").out.decode())) - {"--help", "--version"}
    equal(sorted(listed), sorted(set(FLAGS) | set(SWITCHES)), "flags of --help")
    for flag, (good, bad, *beside) in FLAGS.items():
        prompt = [] if flag in ("--prompt", "--prompt-file", "--token-ids") else ["-p", "x"]
        rest = [*beside, *prompt]
        if good is not None:
            for spelling in ([flag, good], [flag + "=" + good]):
                named = [] if flag == "--model" else NO_MODEL
                expect_exit(ds4(*spelling, *rest, *named), 3)
        if bad is not None:
            for spelling in ([flag + "=" + bad], *([[flag, bad]] if good is not None else [])):
                expect_exit(ds4(*spelling, *rest, *NO_MODEL), 2, flag + ":", "try --help")
        if good is not None:
            expect_exit(ds4(*rest, *NO_MODEL, flag), 2, flag + ":", "needs a value")
    for flag, beside in SWITCHES.items():
        expect_exit(ds4(flag, *beside, "-p", "x", *NO_MODEL), 3)
        expect_exit(ds4(flag + "=x", *beside, "-p", "x", *NO_MODEL), 2, flag + ":", "takes no value")
    for short in (["-c", "5"], ["-t", "1"], ["-n", "5"], ["-sys", "x"], ["--sys=x"], ["-q"], ["-v"]):
        expect_exit(ds4(*short, "-p", "x", *NO_MODEL), 3)


@test
def sentences_of_usage_errors():
    needs_program()
    r = ds4("--ctx", "abc")
    expect_exit(r, 2)
    equal(r.err, 'ds4: --ctx: expected a positive integer, got "abc"\nds4: try --help\n', "stderr")
    equal(r.out, b"", "stdout")
    expect_exit(ds4("--cxt", "5"), 2, "--ctx")
    expect_exit(ds4("hello"), 2, "hello", "-p")
    expect_exit(ds4("--", "-p"), 2, "-p")
    expect_exit(ds4("-p", "a", "--prompt-file", "b"), 2, "--prompt-file", "--prompt")
    expect_exit(ds4("--system", "a", "--system-file", "b", "-p", "x"), 2, "--system-file")
    expect_exit(ds4("--raw", "--system", "a", "-p", "x"), 2, "--raw")
    expect_exit(ds4("--inspect", "--dump-tokens"), 2, "--inspect", "--dump-tokens")
    expect_exit(ds4("--token-ids", "x"), 2, "--dump-logits", "--print-ids")
    expect_exit(ds4("--all-positions", "--dump-logits", "x.json", "-p", "x"), 2, ".f32")
    expect_exit(ds4("--backend", "metal", "-p", "x"), 2, "not built in", "cpu")
    expect_exit(ds4("-q", "-v", "-p", "x"), 2, "--quiet")
    expect_exit(ds4(*["--stop=x"] * 17, "-p", "x"), 2, "16")
    expect_exit(ds4("-p", "x", *NO_MODEL, "--json", "--inspect"), 2, "--json")
    expect_exit(ds4(*NO_MODEL, stdin=b""), 2, "standard input is empty")


@test
def environment_stands_behind_flags():
    needs_program()
    expect_exit(ds4("-p", "x", env=environment(DS4_MODEL="/nonexistent/env.gguf")), 3, "env.gguf", "DS4_MODEL")
    expect_exit(ds4("-p", "x", "-m", "/nonexistent/flag.gguf", env=environment(DS4_MODEL="/nonexistent/env.gguf")),
                3, "flag.gguf")
    expect_exit(ds4("-p", "x", *NO_MODEL, env=environment(DS4_CTX="abc")), 2, "DS4_CTX", "positive integer")
    expect_exit(ds4("-p", "x", *NO_MODEL, "--ctx", "9", env=environment(DS4_CTX="abc")), 3)
    expect_exit(ds4("-p", "x", *NO_MODEL, env=environment(DS4_BACKEND="metal")), 2, "not built in")
    expect_exit(ds4("-p", "x", *NO_MODEL, "--backend", "cpu", env=environment(DS4_BACKEND="metal")), 3)


@test
def help_and_version():
    needs_program()
    r = ds4("--help")
    expect_exit(r, 0)
    equal(r.err, "", "stderr")
    for line in r.out.decode().splitlines():
        check(len(line) <= 80, "line fits 80 columns", line)
    one = ds4("--help", "sampling")
    expect_exit(one, 0)
    check(b"--temp" in one.out and b"--ctx" not in one.out, "one topic only")
    expect_exit(ds4("--help", "cooking"), 2, "topics")
    r = ds4("--version")
    expect_exit(r, 0)
    check(re.match(rb"ds4 \d+\.\d+\.\d+ \(commit .+\)\nbackends: .*cpu.*\nbuild: ", r.out), "three lines", r.out)


# ---- models -------------------------------------------------------------------

@test
def missing_and_wrong_models_name_the_remedy():
    needs_program()
    expect_exit(ds4("-p", "x", *NO_MODEL), 3, "/nonexistent/model.gguf", "./download_model.sh")
    page = path_of("page.gguf", "<html>not a model, and longer than the header of one</html>" * 9)
    expect_exit(ds4("-p", "x", "-m", page), 3, page)
    expect_exit(ds4("--inspect", "-m", page), 3, page)
    expect_exit(ds4("--dump-tokens", "-p", "x", "-m", page), 3, page)
    with open(model(), "rb") as f:
        cut = path_of("cut.gguf", f.read(200000))
    expect_exit(ds4("-p", "x", "-m", cut), 3)


@test
def current_folder_is_looked_into():
    here = path_of("folder")
    os.makedirs(here, exist_ok=True)
    link = os.path.join(here, "ds4flash.gguf")
    if not os.path.lexists(link):
        os.symlink(model(), link)
    r = ds4("-p", "x", "-n", "1", cwd=here)
    expect_exit(r, 0, "ds4flash.gguf (current folder)")
    expect_exit(ds4("--chdir", here, "-p", "x", "-n", "1"), 0, "current folder")
    expect_exit(ds4("--chdir", "/nonexistent", "-p", "x"), 1, "--chdir")


@test
def bundled_model_is_found_beside_the_program():
    needs_program()
    if not os.path.exists(os.path.join(ROOT, "models", "tiny", "ds4-tiny.gguf")):
        expect_exit(ds4("-p", "x"), 3, "ds4flash.gguf", "ds4-tiny.gguf", "./download_model.sh")
        raise Skip("models/tiny/ds4-tiny.gguf is not there")
    expect_exit(ds4("-p", "Hi", "-n", "4"), 0, "(bundled)")


@test
def not_enough_memory_is_4():
    if "asan" in DS4 or "tsan" in DS4:
        raise Skip("a sanitizer needs more address space than this test leaves")
    small = "ulimit -v 400000; exec %s -m %s --ctx 4000k -p x" % (DS4, model())
    p = subprocess.run(["sh", "-c", small], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       env=environment())
    equal(p.returncode, 4, "exit code (%r)" % p.stderr[-300:])


@test
def inspect_tells_layout_types_and_memory():
    r = run("--inspect")
    expect_exit(r, 0)
    text = r.out.decode()
    for word in ("layout", "vocabulary", "routed down", "total", "32768", "100000", "1000000"):
        check(word in text, "names " + word, text)


# ---- answers ------------------------------------------------------------------

@test
def one_shot_keeps_stdout_pure():
    r = run("-p", "Hello", "-n", "40")
    expect_exit(r, 0, "memory:", "prefill", "generation", "ctx ")
    check(re.search(r"ds4: prefill \d+ tokens in \d+\.\d\d s \(\d+\.\d\d t/s\), generation \d+ tokens in "
                    r"\d+\.\d\d s \(\d+\.\d\d t/s\), ctx \d+/4096\n", r.err), "statistics line", r.err)
    check(r.out.endswith(b"\n") and not r.out.endswith(b"\n\n"), "one newline at the end", r.out)
    quiet = run("-p", "Hello", "-n", "40", "-q")
    equal(quiet.err, "", "stderr with -q")
    equal(quiet.out, r.out, "the same seed, the same answer")
    check(b"[thinking]" not in r.out and b"\033" not in r.out, "reasoning is dropped in a pipe")


@test
def thinking_is_shown_when_asked():
    r = run("-p", "Hello", "-n", "40", "--show-thinking", "yes")
    check(r.out.startswith(b"[thinking]\n"), "begins with the marker", r.out[:60])
    check(b"\n[/thinking]\n" in r.out, "ends with the marker", r.out)
    r = run("-p", "Hello", "-n", "40", "--show-thinking", "yes", "--color", "always")
    check(r.out.startswith(b"\033[2m") and b"\033[0m" in r.out, "dimmed", r.out)
    r = run("-p", "Hello", "-n", "40", "--show-thinking", "yes", "--nothink")
    check(b"[thinking]" not in r.out, "nothing to show", r.out)


@test
def prompt_sources_agree():
    args = ("-n", "6", "-q")
    want = run("-p", "Summarise:\n\none\ntwo", *args).out
    equal(run("-p", "Summarise:", *args, stdin=b"one\ntwo\n").out, want, "-p and a pipe")
    equal(run("--prompt-file", path_of("p.txt", "Summarise:\n\none\ntwo\n"), *args).out, want, "--prompt-file")
    equal(run("--prompt-file", "-", *args, stdin=b"Summarise:\n\none\ntwo\n").out, want, "--prompt-file -")
    equal(run(*args, stdin=b"Summarise:\n\none\ntwo\n").out, want, "a pipe")
    equal(run("-p", "x", "--system-file", path_of("s.txt", "Be brief\n"), *args).out,
          run("-p", "x", "--system", "Be brief", *args).out, "--system-file")
    expect_exit(run("--prompt-file", "/nonexistent/p", *args), 1, "/nonexistent/p")


@test
def json_answers():
    r = run("-p", "Hello", "-n", "40", "--json")
    expect_exit(r, 0)
    answer = json.loads(r.out)
    equal(sorted(answer), ["content", "finish_reason", "reasoning", "timings", "usage"], "keys")
    equal(answer["finish_reason"] in ("stop", "length"), True, "finish_reason known")
    usage = answer["usage"]
    equal(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"], "total_tokens")
    check(0 < usage["reasoning_tokens"] <= usage["completion_tokens"] <= 40, "counts", usage)
    equal(r.out.count(b"\n"), 1, "lines")


@test
def stop_strings_end_the_answer():
    whole = json.loads(run("-p", "Hello", "-n", "60", "--nothink", "--json").out)["content"]
    ascii_runs = [w for w in re.findall(r"[A-Za-z]{2,}", whole)]
    if not ascii_runs:
        raise Skip("this model wrote no word")
    word = ascii_runs[0][-2:]
    r = json.loads(run("-p", "Hello", "-n", "60", "--nothink", "--json", "--stop", word).out)
    equal(r["content"], whole[:whole.index(word)], "text before the stop string")
    equal(r["finish_reason"], "stop", "finish_reason")


@test
def thinking_budget_closes_the_reasoning():
    usage = json.loads(run("-p", "Hello", "-n", "80", "--json").out)["usage"]
    check(usage["reasoning_tokens"] <= 80 - 80 // 8, "the answer keeps its share", usage)
    # After the budget a polite end is waited for, 512 tokens at most.
    usage = json.loads(run("-p", "Hello", "-n", "3000", "--stop", "e", "--think-budget", "5", "--json").out)["usage"]
    check(usage["reasoning_tokens"] <= 5 + 512 + 1, "closed after the budget", usage)


@test
def max_thinking_needs_a_large_context():
    expect_exit(run("-p", "x", "-n", "1", "--think-max"), 0, "393216")
    r = run("-p", "x", "-n", "1", "--think-max", "--think-max-min-ctx", "0")
    expect_exit(r, 0)
    check("--think-max needs" not in r.err, "no warning", r.err)


@test
def prompt_longer_than_the_context_is_5():
    long = b"word " * 20000
    expect_exit(run("-q", stdin=long), 5, "--ctx")
    expect_exit(run("--raw", "-q", stdin=long), 5, "--ctx")
    expect_exit(run("--print-ids", "-q", stdin=long), 5, "--ctx")
    r = ds4("-m", model(), "--ctx", "64", "-p", "x", "-n", "1000", "-q")
    expect_exit(r, 0)


@test
def chunks_threads_and_kernels_do_not_change_the_text():
    args = ("-n", "12", "-q", "--temp", "0", "-p", "The quick brown fox jumps over the lazy dog. " * 3)
    want = run(*args).out
    equal(run(*args, "--prefill-chunk", "7").out, want, "chunks of 7")
    equal(run(*args, "-t", "1").out, want, "one thread")


@test
def an_expert_cache_changes_no_text_and_counts_its_reads():
    args = ("-n", "12", "-q", "--temp", "0", "-p", "The quick brown fox jumps over the lazy dog.", "--json")
    want = json.loads(run(*args).out)
    check("experts" not in want, "mapped experts have counters", want)
    got = json.loads(run(*args, "--expert-cache", "1m").out)
    equal(got["content"], want["content"], "text")
    e = got["experts"]
    check(0 < e["cached"] < e["total"] and e["hits"] + e["misses"] > 0 and e["bytes_read"] > 0, "counters", e)
    expect_exit(run("-p", "x", "-n", "1", "--expert-cache", "1k"), 2, "give at least")


@test
def backends_by_name():
    r = run("-p", "x", "-n", "2", "--backend", "check:cpu")
    expect_exit(r, 0, "check:cpu")
    r = run("-p", "x", "-n", "1", "--backend", "trace:cpu")
    expect_exit(r, 0)
    check(r.err.count("\n") > 20, "a line per op", r.err[:200])
    expect_exit(run("-p", "x", "-n", "1", "--isa", "ref"), 0, "ref")


@test
def a_program_without_kernels_says_so_or_takes_the_cpu():
    for name in ("cuda", "check:cuda"):
        expect_exit(run("-p", "x", "-n", "1", "--backend", name), 3, "built without CUDA kernels", "`make cuda`")
    r = run("-p", "x", "-n", "1")
    check("on cpu" in r.err and "CUDA" not in r.err, "not a word of it", r.err)
    r = run("-p", "x", "-n", "1", "--backend", "auto", "-v")
    equal(r.err.count("the CPU computes: cuda: this program was built without CUDA kernels"), 1, "once")


# ---- streams ------------------------------------------------------------------

@test
def reader_that_leaves_is_141_without_a_word():
    p = subprocess.Popen([DS4, "-m", model(), "-p", "x", "-n", "3000", *SLOW],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    p.stdout.read(1)
    p.stdout.close()
    err = p.stderr.read().decode()
    equal(p.wait(60), 141, "exit code (%s)" % err)
    check("ipe" not in err.replace("pipeline", ""), "no word about it", err)


@test
def closed_stdout_is_141():
    for args in ("-p x -n 3 --nothink", "--dump-tokens -p x", "--inspect", "--help"):
        p = subprocess.run("exec %s -m %s %s >&-" % (DS4, model(), args), shell=True, stdin=subprocess.DEVNULL,
                           stderr=subprocess.PIPE, env=environment())
        equal(p.returncode, 141, "exit code of " + args)


@test
def full_disk_is_1():
    if not os.path.exists("/dev/full"):
        raise Skip("no /dev/full here")
    with open("/dev/full", "wb") as full:
        p = subprocess.run([DS4, "-m", model(), "-p", "x", "-n", "3", "--nothink"], stdin=subprocess.DEVNULL,
                           stdout=full, stderr=subprocess.PIPE, env=environment())
    equal(p.returncode, 1, "exit code")
    check(b"standard output" in p.stderr, "says which", p.stderr)


@test
def input_from_a_generator_that_never_ends_is_refused():
    # `yes | head` ends by SIGPIPE on its side; a prompt of megabytes is too long on ours.
    p = subprocess.run("yes | head -c 3000000 | %s -m %s -q --ctx 4096" % (DS4, model()), shell=True,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    equal(p.returncode, 5, "exit code (%r)" % p.stderr[-200:])


def interrupted(when, *args):
    """Starts ds4, waits for `when` on its stderr and sends SIGINT."""
    p = subprocess.Popen([DS4, "-m", model(), *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, env=environment())
    seen = b""
    while when not in seen:
        piece = os.read(p.stderr.fileno(), 4096)
        check(piece, "stderr ended before %r" % when, seen)
        seen += piece
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=120)
    return p.returncode, out, (seen + err).decode("utf-8", "replace")


@test
def interrupt_while_loading_is_130():
    code, out, err = interrupted(b"ds4: model", "-p", "x", "-n", "50000", "--warm-weights")
    equal(code, 130, "exit code (%s)" % err)
    equal(out, b"", "stdout")


@test
def interrupt_while_reading_the_prompt_is_130():
    # Ten thousands of tokens, one at a time.
    text = path_of("long.txt", "The quick brown fox jumps over the lazy dog. " * 2000)
    code, out, err = interrupted(b" layers,", "--prompt-file", text, "--ctx", "100000", "--prefill-chunk", "1", *SLOW)
    equal(code, 130, "exit code (%s)" % err)
    equal(out, b"", "stdout")


@test
def interrupt_while_answering_is_130():
    p = subprocess.Popen([DS4, "-m", model(), "-p", "x", "-n", "3000", "--show-thinking", "yes", *SLOW],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    os.read(p.stdout.fileno(), 1)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=120)
    equal(p.returncode, 130, "exit code (%r)" % err)
    check(out.endswith(b"\n"), "the line is ended", out[-20:])
    check(b"generation" in err, "statistics are told", err)


# ---- dumps --------------------------------------------------------------------

@test
def dump_tokens_lists_ids_and_entries():
    text = "Hi <｜User｜>\n</｜DSML｜tool_calls> é\x01"
    r = run("--dump-tokens", "-p", text)
    expect_exit(r, 0)
    equal(r.err, "", "stderr")
    first, *rest = r.out.decode().split("\n")
    ids = json.loads(first)
    equal(first, json.dumps(ids), "the first line is a JSON array")
    equal(rest.pop(), "", "last line")
    equal(len(rest), len(ids), "a line per token")
    for line, token in zip(rest, ids):
        check(re.match(r" *%d  " % token, line) and len(line) >= 8, "line of token %d" % token, line)
    entries = [line[8:] for line in rest]
    check("<｜User｜>" in entries and "｜DSML｜" in entries, "control tokens are recognised", entries)
    spelled = re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes([int(m.group(1), 16)]), "".join(entries).encode())
    equal(spelled.decode(), text, "the entries spell the text")
    equal(run("--dump-tokens", stdin=text.encode()).out, r.out, "by a pipe")


@test
def dump_tokens_of_a_chat():
    plain = ids_of(run("--dump-tokens", "-p", "Hi"))
    chat = ids_of(run("--dump-tokens=chat", "-p", "Hi", "--system", "S"))
    raw = ids_of(run("--dump-tokens", "-p", "<｜begin▁of▁sentence｜>S<｜User｜>Hi<｜Assistant｜><think>"))
    equal(chat, raw, "tokens of the template")
    check(len(chat) > len(plain), "longer than the text")
    without = ids_of(run("--dump-tokens=chat", "-p", "Hi", "--system", "", "--nothink"))
    raw = ids_of(run("--dump-tokens", "-p", "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜></think>"))
    equal(without, raw, "tokens without system message and thinking")


@test
def a_model_that_becomes_shorter_is_told_by_name_and_byte():
    copy = path_of("shrinking.gguf")
    shutil.copyfile(model(), copy)
    p = subprocess.Popen([DS4, "-m", copy, "-p", "x", "-n", "3000", "--show-thinking", "yes", *SLOW],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    p.stdout.read(1)
    os.truncate(copy, 8192)
    _, err = p.communicate(timeout=PATIENCE)
    equal(p.returncode, 1, "exit code")
    check(re.search(rb"\nds4: \S*shrinking\.gguf: became shorter while it was in use; byte \d+ is no longer there\n$",
                    err),
          "what stderr says", err)


def ids_of(result):
    expect_exit(result, 0)
    return json.loads(result.out.decode().split("\n")[0])


@test
def dump_logprobs_schema_and_stability():
    a, b = path_of("a.json"), path_of("b.json")
    for path in (a, b):
        r = run("--dump-logprobs", path, "-p", "Hello", "-n", "4", "--logprobs-top-k", "7")
        expect_exit(r, 0)
        equal(r.out, b"", "stdout")
    with open(a, "rb") as f, open(b, "rb") as g:
        first = f.read()
        equal(first, g.read(), "two runs")
    top = json.loads(first)
    equal(sorted(top), ["ctx", "prompt_tokens", "source", "steps", "top_k"], "keys")
    equal((top["source"], top["ctx"], top["top_k"]), ("ds4", 4096, 7), "head")
    check(1 <= len(top["steps"]) <= 4, "steps")
    for i, step in enumerate(top["steps"]):
        equal(sorted(step), ["selected", "step", "top_logprobs"], "keys of a step")
        equal(step["step"], i, "number")
        listed = step["top_logprobs"]
        equal(len(listed), 7, "candidates")
        order = [(-c["logit"], c["token"]["id"]) for c in listed]
        equal(order, sorted(order), "order by logit, then id")
        equal(step["selected"], listed[0]["token"], "greedy takes the best")
        differences = {round(c["logit"] - c["logprob"], 4) for c in listed}
        check(max(differences) - min(differences) < 1e-3, "one normaliser", differences)
        for c in listed:
            equal(sorted(c["token"]), ["bytes", "id", "text"], "keys of a token")
            equal(bytes(c["token"]["bytes"]).decode("utf-8", "replace"), c["token"]["text"], "text of the bytes")
    expect_exit(run("--dump-logprobs", "/nonexistent/x.json", "-p", "x"), 1, "/nonexistent/x.json")


def floats(path):
    with open(path, "rb") as f:
        data = f.read()
    return struct.unpack("<%df" % (len(data) // 4), data)


@test
def dump_logits_in_both_forms():
    raw, text = path_of("l.f32"), path_of("l.json")
    expect_exit(run("--dump-logits", raw, "-p", "Hello"), 0)
    expect_exit(run("--dump-logits", text, "-p", "Hello"), 0)
    with open(text) as f:
        told = json.load(f)
    equal(sorted(told), ["logits", "prompt_tokens", "vocab"], "keys")
    values = floats(raw)
    equal(len(values), told["vocab"], "values")
    for a, b in zip(values, told["logits"]):
        check(abs(a - b) <= 1e-6 * max(1, abs(a)), "equal numbers", a, b)


@test
def token_ids_as_they_are():
    one, many = [5, 6, 7, 8, 9, 10, 11], [[5, 6, 7], [8], [5, 6, 7, 8, 9, 10, 11]]
    path = path_of("one.json", json.dumps(one))
    several = path_of("many.json", json.dumps(many))
    all_of_one, all_of_many, last = path_of("1.f32"), path_of("n.f32"), path_of("last.f32")
    expect_exit(run("--token-ids", path, "--dump-logits", all_of_one, "--all-positions"), 0)
    expect_exit(run("--token-ids", several, "--dump-logits", all_of_many, "--all-positions"), 0)
    expect_exit(run("--token-ids", several, "--dump-logits", last), 0)
    equal(len(floats(all_of_one)) % 7, 0, "[7][vocab]")
    vocab = len(floats(all_of_one)) // 7
    rows = floats(all_of_many)
    equal(len(rows), 11 * vocab, "[3 + 1 + 7][vocab]")
    equal(rows[4 * vocab:], floats(all_of_one), "the same sequence, the same numbers")
    ends = rows[2 * vocab:4 * vocab] + rows[10 * vocab:]
    equal(len(floats(last)), 3 * vocab, "last positions")
    for a, b in zip(floats(last), ends):
        check(abs(a - b) < 1e-4, "last positions agree", a, b)


@test
def print_ids_continues_greedily():
    path = path_of("prompts.json", "[[5, 6, 7, 8], [9, 10]]")
    r = run("--token-ids", path, "--print-ids", "-n", "6", "--temp", "0")
    expect_exit(r, 0)
    lines = r.out.decode().splitlines()
    equal(len(lines), 2, "lines")
    ids = [json.loads(line) for line in lines]
    check(all(1 <= len(i) <= 6 for i in ids), "lengths", ids)
    longer = path_of("longer.json", json.dumps([5, 6, 7, 8] + ids[0][:2]))
    again = json.loads(run("--token-ids", longer, "--print-ids", "-n", "4").out)
    equal(again, ids[0][2:6], "continuation of the continuation")


@test
def golden_numbers_from_outside():
    """A checkpoint as it is released, its logits and continuations from another
    implementation, and nothing but the two programs between them."""
    golden = os.path.join(ROOT, "tests", "data", "golden", "tiny-a")
    with open(os.path.join(golden, "golden.json")) as f:
        want = json.load(f)
    numbers = floats(os.path.join(golden, "golden.f32"))
    made, out = path_of("golden.gguf"), path_of("golden.f32")
    p = subprocess.run([os.path.join(BIN, "ds4-gguf"), "convert", golden, made, "--type", "f32", "--force"],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    equal(p.returncode, 0, "conversion (%r)" % p.stdout[-300:])
    as_published = ("-m", made, "--ctx", "1024", "--rounding", "off", "--quality", "-q")

    sequences = [s for s in want["sequences"] if len(s["ids"]) <= 300]
    ids = path_of("golden-ids.json", json.dumps([s["ids"] for s in sequences]))
    expect_exit(ds4(*as_published, "--token-ids", ids, "--dump-logits", out, "--all-positions"), 0)
    got, vocab, row, worst = floats(out), 512, 0, 0
    for s in sequences:
        at = s["logits"]["offset"]
        for k, position in enumerate(s["positions"]):
            a = got[(row + position) * vocab:(row + position + 1) * vocab]
            b = numbers[at + k * vocab:at + (k + 1) * vocab]
            worst = max(worst, max(abs(x - y) for x, y in zip(a, b)))
        row += len(s["ids"])
    equal(len(got), row * vocab, "[positions][vocabulary]")
    check(worst < want["tolerance"]["logits_max"], "largest difference", worst)

    prompts = path_of("golden-prompts.json", json.dumps([g["prompt"] for g in want["greedy"]]))
    r = ds4(*as_published, "--token-ids", prompts, "--print-ids", "-n", "32", "--temp", "0")
    expect_exit(r, 0)
    equal([json.loads(line) for line in r.out.splitlines()], [g["tokens"] for g in want["greedy"]], "continuations")


@test
def token_ids_that_are_none():
    for content, words in (("{}", "array"), ("[]", "array"), ("[1, 2", "JSON"), ("[1.5]", "token id"),
                           ("[[1], 2]", "array"), ("[[]]", "empty"), ("[-1]", "outside"), ("[99999999]", "outside"),
                           ("[1, \"a\"]", "token id")):
        path = path_of("bad.json", content)
        expect_exit(run("--token-ids", path, "--print-ids", "-q"), 1, words)
    expect_exit(run("--token-ids", "/nonexistent/ids", "--print-ids", "-q"), 1, "/nonexistent/ids")


@test
def perplexity_of_a_text():
    text = path_of("text.txt", "It was the best of times, it was the worst of times. " * 4)
    r = run("--perplexity-file", text)
    expect_exit(r, 0)
    m = re.fullmatch(r"tokens (\d+)  nll (\d+\.\d+)  ppl (\d+\.\d+)  (\d+\.\d+) t/s\n", r.out.decode())
    check(m, "one line of four numbers", r.out)
    check(abs(math.exp(float(m.group(2))) / float(m.group(3)) - 1) < 1e-3, "ppl = exp(nll)", r.out)
    n = int(m.group(1))
    cut = ds4("-m", model(), "--ctx", "50", "--perplexity-file", text)
    expect_exit(cut, 0)
    equal(int(cut.out.split()[1]), n, "every token is scored once, whatever the window")
    expect_exit(run("--perplexity-file", "/nonexistent/t"), 1, "/nonexistent/t")
    expect_exit(run("--perplexity-file", path_of("empty.txt", "")), 1, "empty")


@test
def perplexity_agrees_with_the_logits():
    words = "It was the best of times"
    ids = [0] + ids_of(run("--dump-tokens", "-p", words))
    bos = ids_of(run("--dump-tokens", "-p", "<｜begin▁of▁sentence｜>"))
    ids[0] = bos[0]
    out = path_of("ppl.f32")
    expect_exit(run("--token-ids", path_of("ppl.json", json.dumps(ids)), "--dump-logits", out, "--all-positions"), 0)
    rows = floats(out)
    vocab = len(rows) // len(ids)
    nll = 0.0
    for i in range(len(ids) - 1):
        row = rows[i * vocab:(i + 1) * vocab]
        best = max(row)
        nll += best + math.log(sum(math.exp(x - best) for x in row)) - row[ids[i + 1]]
    told = float(run("--perplexity-file", path_of("words.txt", words)).out.split()[3])
    check(abs(told - nll / (len(ids) - 1)) < 1e-4, "mean negative log-likelihood", told, nll / (len(ids) - 1))


# ---- checkpoints --------------------------------------------------------------

@test
def a_saved_session_goes_on():
    saved = path_of("session.kvc")
    if os.path.exists(saved):
        os.remove(saved)
    r = run("-p", "My name is Ada.", "-n", "16", "--save", saved)
    expect_exit(r, 0)
    with open(saved, "rb") as f:
        equal(f.read(3), b"KVC", "magic")
    a = run("-p", "And yours?", "-n", "16", "--load", saved, "-q")
    b = run("-p", "And yours?", "-n", "16", "--load", saved, "-q", "--prefill-chunk", "2048")
    expect_exit(a, 0)
    equal(a.out, b.out, "two loads")
    m = re.search(r"prefill (\d+) tokens.*ctx (\d+)/", run("-p", "And yours?", "-n", "1", "--load", saved).err)
    check(int(m.group(1)) < int(m.group(2)) - 16, "only the new turn is computed", m.group(0))
    expect_exit(run("-p", "x", "--load", "/nonexistent/s"), 1, "/nonexistent/s")
    expect_exit(run("-p", "x", "--load", path_of("bad.kvc", "KVC" + "\0" * 100)), 1, "bad.kvc")
    expect_exit(run("-p", "x", "-n", "1", "--save", "/nonexistent/s"), 1, "/nonexistent/s")


main()
