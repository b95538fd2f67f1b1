"""ds4-bench as a person calls it: modes, outputs, exit codes. Nothing is timed."""
import csv
import io
import json
import os
import signal
import subprocess

from harness import BIN, PATIENCE, Result, Skip, check, environment, equal, expect_exit, main, model, path_of, scratch, test

BENCH = os.path.join(BIN, "ds4-bench")
SMALL = ("-r", "2", "--warmup-max", "0")
THREADS = ("-t", "1") if "tsan" in BIN else ("-t", "2")
SWEEP = "ctx_tokens,prefill_tokens,prefill_tps,gen_tokens,gen_tps,gen_first_ms,gen_steady_tokens,gen_steady_tps,kvcache_bytes"


def bench(*args, env=None, timeout=3 * PATIENCE):
    if not os.path.exists(BENCH):
        raise Skip("%s is not built" % BENCH)
    p = subprocess.run([BENCH, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       env=env or environment(), cwd=scratch(), timeout=timeout)
    return Result(p.returncode, p.stdout, p.stderr.decode("utf-8", "replace"))


def speed(*args, **more):
    return bench("speed", "-m", model(), *THREADS, *args, **more)


@test
def help_and_version_are_on_stdout():
    for args in (("speed", "--help"), ("machine", "--help"), ("--help",)):
        r = bench(*args)
        expect_exit(r, 0)
        check(b"Usage: ds4-bench" in r.out, "no usage", args)
    r = bench("--version")
    expect_exit(r, 0)
    check(r.out.startswith(b"ds4-bench "), "version", r.out)


@test
def bad_usage_is_2_and_says_which_flag():
    for args, word in (((), "machine, speed"), (("fly",), "machine or speed"), (("speed", "-p", "x"), "--prompt"),
                       (("speed", "-p", "0", "-n", "0"), "nothing to measure"), (("speed", "-t", "0"), "--threads"),
                       (("speed", "-pg", "5"), "--prompt-gen"), (("speed", "-r", "0"), "--repetitions"),
                       (("speed", "--ctx-start", "64", "-p", "5"), "--ctx-start"),
                       (("--ctx-start", "64", "--ctx-max", "32"), "--ctx-max"),
                       (("--ctx-start", "64", "--json", "x"), "--json"), (("speed", "--bogus"), "--bogus"),
                       (("speed", "--isa", "sse9"), "--isa"), (("speed", "-f", "x", "--random-tokens", "1"),
                                                               "--random-tokens"),
                       (("machine", "-t", "x"), "--threads")):
        expect_exit(bench(*args), 2, word)


@test
def a_missing_model_or_text_is_1():
    expect_exit(bench("speed", "-m", "/nonexistent/x.gguf", "-p", "8"), 1, "x.gguf")
    expect_exit(speed("-p", "8", "-f", "/nonexistent/text"), 1, "/nonexistent/text")


@test
def a_missing_backend_is_1():
    expect_exit(speed("-p", "8", "--backend", "cuda"), 1, "built without CUDA kernels")


@test
def the_table_has_a_row_per_cell_and_thread_count():
    r = speed("-p", "16,32", "-n", "4", "-pg", "8,2", "-d", "0,20", *SMALL, *([] if "tsan" in BIN else ["-t", "1,2"]))
    expect_exit(r, 0)
    text = r.out.decode()
    for name in ("pp16", "pp32", "tg4", "pp8+tg2", "pp16@d20", "pp32@d20", "tg4@d20", "pp8+tg2@d20"):
        n = sum(line.split()[:1] == [name] for line in text.splitlines())
        equal(n, 1 if "tsan" in BIN else 2, "rows of " + name)


@test
def records_explain_themselves():
    name = path_of("records.jsonl")
    r = speed("-p", "16", "-n", "4", "--sessions", "1,2", "--classes", "--jsonl", name, *SMALL)
    expect_exit(r, 0)
    check(b"attention projections" in r.out, "no classes in the table")
    records = [json.loads(line) for line in open(name)]
    equal([x["cell"]["test"] for x in records], ["pp16", "tg4", "pp16x2", "tg4x2"], "tests")
    for x in records:
        equal(x["schema"], 1, "schema")
        equal(x["n"], len(x["samples"]), "samples")
        equal(x["cell"]["params"]["fill"], "real", "fill")
        check(x["tool"]["build"] and x["machine"]["cpu"] and x["model"]["hash"].startswith("crc32c:"), "who and where",
              x)
        check(x["stat"]["min"] <= x["stat"]["p50"] <= x["stat"]["max"], "order", x["stat"])
        check(isinstance(x["missing"], list) and all(m["why"] for m in x["missing"]), "missing", x["missing"])
        check(sum(o["calls"] for o in x["ops"]) > 0 and x["experts_per_layer"] > 0, "ops", x["ops"][:2])
        decode = x["cell"]["params"]["gen"] > 0
        equal("decode" in x, decode, "decode part")
        equal(x["eff_GBps"] is not None, decode, "eff_GBps")


@test
def json_and_csv_replace_the_table_on_stdout():
    r = speed("-p", "8", *SMALL, "--json", "-", "-q")
    expect_exit(r, 0)
    equal(len(json.loads(r.out)), 1, "records")
    why = json.loads(r.out)[0]["model"]["why_cpu"]
    check(why.startswith("the CPU computes: cuda: this program was built without"), "why no card computes", why)
    r = speed("-p", "8", "-n", "2", *SMALL, "--csv", "-", "--md", path_of("t.md"))
    expect_exit(r, 0)
    rows = list(csv.DictReader(io.StringIO(r.out.decode())))
    equal([x["test"] for x in rows], ["pp8", "tg2"], "tests")
    equal(rows[0]["eff_GBps"], "", "eff_GBps of a prompt")
    check(float(rows[1]["eff_GBps"]) > 0 and rows[1]["watts"] == "", "columns", rows[1])
    check(open(path_of("t.md")).read().count("\n| ") >= 3, "markdown rows")


@test
def a_sweep_prints_the_published_columns():
    name = path_of("sweep.csv")
    r = bench("-m", model(), *THREADS, "--ctx-start", "32", "--ctx-max", "128", "--step-incr", "32", "--gen-tokens", "4",
              "--csv", name)
    expect_exit(r, 0)
    lines = r.out.decode().splitlines()
    equal(lines[0], SWEEP, "header")
    equal(r.out.decode(), open(name).read(), "file")
    rows = list(csv.DictReader(lines))
    equal([x["ctx_tokens"] for x in rows], ["32", "64", "96", "128"], "contexts")
    check(all(x["prefill_tokens"] == "32" and x["gen_tokens"] == "4" and x["gen_steady_tokens"] == "3" for x in rows),
          "tokens")
    kv = [int(x["kvcache_bytes"]) for x in rows]
    check(kv == sorted(kv), "KV grows", kv)
    r = bench("speed", "-m", model(), *THREADS, "--ctx-start", "16", "--ctx-max", "64", "--step-mul", "2",
              "--gen-tokens", "0")
    equal([line.split(",")[0] for line in r.out.decode().splitlines()[1:]], ["16", "32", "64"], "contexts by a factor")


@test
def a_depth_may_be_filled_fast():
    r = speed("-n", "2", "-d", "700", "--fill", "fast", "--json", "-", *SMALL)
    expect_exit(r, 0)
    record = json.loads(r.out)[0]
    equal((record["cell"]["depth"], record["cell"]["params"]["fill"]), (700, "fast"), "cell")


@test
def random_tokens_tell_their_experts():
    r = speed("-p", "16", "--random-tokens", "3", *SMALL)
    expect_exit(r, 0)
    check(b"distinct experts" in r.out, "no count of experts", r.out)


@test
def an_expert_cache_tells_its_hit_rate():
    r = speed("-n", "4", "--expert-cache", "1m", "--json", "-", *SMALL)
    if r.code == 1 and "cache" in r.err:
        raise Skip("this model takes no cache of 1 MiB: " + r.err.splitlines()[-1])
    expect_exit(r, 0)
    cache = json.loads(r.out)[0]["expert_cache"]
    check(cache["slots"] > 0 and 0 <= cache["hit_rate"] <= 1 and cache["bytes_per_token"] >= 0, "cache", cache)


@test
def an_interrupt_leaves_what_was_measured():
    if not os.path.exists(BENCH):
        raise Skip("%s is not built" % BENCH)
    p = subprocess.Popen([BENCH, "speed", "-m", model(), *THREADS, "-p", "8,2000", "-r", "500", "--warmup-max", "0",
                          "--isa",
                          "ref", "--budget", "0", "--csv", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         env=environment(), cwd=scratch())
    line = b""
    while not line.startswith(b"ds4-bench: pp8 "):
        line = p.stderr.readline()
        check(line, "ended before a row")
    p.send_signal(signal.SIGINT)
    out, _ = p.communicate(timeout=PATIENCE)
    equal(p.returncode, 130, "exit code")
    check(b"\npp8," in out, "the finished row is missing", out)


@test
def machine_measures_keeps_and_measures_again():
    if "asan" in BIN or "tsan" in BIN:
        raise Skip("every loop of the machine is too slow under a sanitizer")
    env = environment(XDG_CACHE_HOME=path_of("cache"))
    os.makedirs(path_of("cache"), exist_ok=True)
    r = bench("machine", "--json", path_of("machine.json"), env=env, timeout=10 * PATIENCE)
    expect_exit(r, 0, "measuring")
    check(b"published flash, q2" in r.out and b"memory read, 1 core" in r.out, "text", r.out)
    record = json.load(open(path_of("machine.json")))
    check(record["read_one_GBps"]["best"] > 0.1 and record["read_all_GBps"]["p50"] > 0.1, "read",
          record["read_all_GBps"])
    check(record["cache_state"] in ("cold", "unverified"), "cache_state")
    if record["int8_one_gmacs"]:
        check(record["int8_one_gmacs"]["best"] > record["f32_one_gmacs"]["best"] > 0, "int8 is not slower than f32")
    check(record["kernels"]["Q8_0"]["cached_1"]["gmacs"] > 0, "kernels")
    check(isinstance(record["missing"], list) and record["readings"], "readings")
    kept = sorted(os.listdir(os.path.join(path_of("cache"), "ds4")))
    equal([x.split(".")[-1] for x in kept], ["json", "txt"], "kept files")
    again = bench("machine", "--json", "-", env=env)
    expect_exit(again, 0, "--fresh")
    equal(json.loads(again.out), record, "kept record")


main()
