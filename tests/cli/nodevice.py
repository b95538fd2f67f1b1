"""ds4, ds4-server and ds4-bench where the device is lost before they are done, or where there is none."""
import functools
import json
import os
import sys

import harness
from device import Device, on_both
from harness import THREADS, check, equal, expect_exit, path_of, test
from serving import MODEL


def flags(*more, backend="cuda"):
    return ("-m", MODEL, "--backend", backend, *THREADS, *more)


def lines_of(result):
    """What stderr says but for the model's path and the memory."""
    return [l for l in result.err.splitlines() if ": model /" not in l and ": memory" not in l
            and ": listening on" not in l]


@on_both
def one_answer_ends_with_the_sentence(device):
    """In a step, and for the CUDA backend also at the start, while weights go up and in a step that is recorded."""
    saved = path_of("lost.kvc")
    for calls in (0, 4) if device.far else (2, 500, 3300):
        device.lose(calls)
        r = device.run("ds4", *flags("-c", "512", "--nothink", "-p", "What is ds4?", "-n", "6", "--save", saved))
        expect_exit(r, 1, device.says)
        lines = lines_of(r)
        check(lines[-1].startswith("ds4: ") and device.says in lines[-1], "the last line", r.err)
        equal(sum(device.says in l for l in lines), 1, "lines with the sentence, of %r" % lines)
        check(len(lines) <= 2, "other lines than that and the model's", lines)
        check(not os.path.exists(saved), "a session without its rows was saved")


@test
def no_card_is_one_sentence_whatever_program():
    device = Device("mock")
    device.away()
    for code, name, more in ((3, "ds4", ("-p", "hi")), (3, "ds4", ("--inspect",)), (3, "ds4-server", ("--port", "0")),
                             (3, "ds4-server", ("--check",)), (1, "ds4-bench", ("-p", "8", "-n", "2"))):
        mode = ("speed",) if name == "ds4-bench" else ()
        r = device.run(name, *mode, *flags(*more))
        expect_exit(r, code, device.missing, "nvidia-smi")
        equal(len(lines_of(r)), 1, "lines of %s in %r" % (name, r.err))


@test
def auto_says_why_the_cpu_computes():
    """The same sentence wherever it stands."""
    device = Device("mock")
    device.away()
    why = "the CPU computes: cuda: starting the driver: CUDA_ERROR_NO_DEVICE; is there a card in nvidia-smi, and not " \
          "hidden by CUDA_VISIBLE_DEVICES?"
    auto = functools.partial(flags, backend="auto")
    md = path_of("lost.md")
    for name, more in (("ds4", ("-p", "hi", "-n", "1")), ("ds4-server", ("--check",)),
                       ("ds4-bench", ("-p", "8", "-n", "0", "-r", "1", "--warmup-max", "0", "--json", "-", "--md", md))):
        mode = ("speed",) if name == "ds4-bench" else ()
        r = device.run(name, *mode, *auto(*more))
        expect_exit(r, 0, "%s: %s\n" % (name, why))
        equal(r.err.count(why), 1, "times that %s says it in %r" % (name, r.err))
    equal(json.loads(r.out)[0]["model"]["why_cpu"], why, "the record")
    equal(device.run("ds4", *auto("--inspect")).out.decode().count(why), 1, "times that --inspect says it")
    with open(md, encoding="utf-8") as f:
        check("\n%s\n" % why in f.read(), "the Markdown lacks it")
    device.back()
    r = device.run("ds4-bench", "speed", *auto("-p", "2", "-n", "0", "-r", "1", "--warmup-max", "0", "--json", "-"))
    expect_exit(r, 0)
    model = json.loads(r.out)[0]["model"]
    check(model["why_cpu"] is None and model["backend"].startswith("cuda"), "where there is a card", model)


if __name__ == "__main__":
    sys.exit(harness.main())
