"""The frame of the program tests: functions decorated with @test, one line per
failure or skip, and the sum that tools/run_tests.sh reads.

DS4_BIN is the folder of the built programs; DS4_MODEL may name a small model, else
ds4-gguf makes one."""
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.abspath(os.environ.get("DS4_BIN") or os.path.join(ROOT, "build", "release", "bin"))
DS4 = os.path.join(BIN, "ds4")
PATIENCE = 60       # seconds; sanitized builds on a busy machine need some

# The definitions are slow, so an answer is still being written when a key or a
# signal comes.
SLOW = ("--isa", "ref")

# The thread sanitizer makes two threads that wait for each other many times slower
# than one; the progress line still has a thread of its own.
THREADS = ("-t", "1") if "tsan" in BIN else ()

tests = []


class Skip(Exception):
    pass


def test(function):
    tests.append(function)
    return function


def check(condition, message, *details):
    if not condition:
        raise AssertionError(message + "".join(": %r" % (d,) for d in details))


def equal(got, want, what):
    check(got == want, "%s is %r, want %r" % (what, got, want))


def scratch():
    """A folder that is removed at exit."""
    if not hasattr(scratch, "path"):
        scratch.path = tempfile.mkdtemp(prefix="ds4-cli-")
    return scratch.path


def path_of(name, content=None):
    path = os.path.join(scratch(), name)
    if content is not None:
        with open(path, "wb") as f:
            f.write(content if isinstance(content, bytes) else content.encode())
    return path


def environment(**changes):
    """A known environment: no colours asked for, no history of a person."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith("DS4_") and k not in ("NO_COLOR", "CLICOLOR_FORCE")}
    env.update(HOME=scratch(), TERM="xterm", LC_ALL="C.UTF-8")
    for key, value in changes.items():
        if value is None:
            env.pop(key, None)
        else:
            env[key] = value
    return env


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


def ds4(*args, stdin=None, env=None, cwd=None, timeout=PATIENCE):
    """Runs ds4 with stdin from bytes (None: /dev/null)."""
    p = subprocess.run([DS4, *args], input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       env=env or environment(), cwd=cwd or scratch(), timeout=timeout)
    return Result(p.returncode, p.stdout, p.stderr.decode("utf-8", "replace"))


def expect_exit(result, code, *words):
    """The exit code, and on stderr each of the words."""
    check(result.code == code, "exit code %d, want %d" % (result.code, code), result.err[-400:])
    for word in words:
        check(word in result.err, "stderr lacks %r" % word, result.err[-400:])


def find_model():
    """A model that loads in milliseconds, or Skip. Random weights are as good as any
    here, and they go on talking where a trained model would have said it all."""
    if not os.path.exists(DS4):
        raise Skip("%s is not built" % DS4)
    named = os.environ.get("DS4_MODEL")
    if named and os.path.exists(named):
        return os.path.abspath(named)
    gguf = os.path.join(BIN, "ds4-gguf")
    if not os.path.exists(gguf):
        raise Skip("no model: neither DS4_MODEL nor ds4-gguf to make one")
    made = path_of("synth.gguf")
    if not os.path.exists(made):
        p = subprocess.run([gguf, "synth", "--shape", "tiny", "--layers", "5", "--hidden", "128", "--out", made],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE)
        if p.returncode:
            raise Skip("ds4-gguf synth failed: " + p.stdout.decode("utf-8", "replace")[-200:])
    return made


@functools.lru_cache(maxsize=None)
def model():
    return find_model()


def wait_until(condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def main():
    passed = failed = skipped = 0
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        for function in tests:
            name = function.__name__
            if only not in name:
                continue
            try:
                function()
                passed += 1
            except Skip as why:
                print("SKIP %s: %s" % (name, why))
                skipped += 1
            except Exception as e:
                where = traceback.extract_tb(e.__traceback__)
                line = [f.lineno for f in where if f.filename == sys.argv[0] or f.filename.endswith(sys.argv[0])]
                text = " ".join(("%s: %s" % (type(e).__name__, e)).split())
                print("FAIL %s (line %s): %s" % (name, line[-1] if line else "?", text[:800]))
                failed += 1
            sys.stdout.flush()
    finally:
        if hasattr(scratch, "path"):
            shutil.rmtree(scratch.path, ignore_errors=True)
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    sys.exit(failed != 0)
