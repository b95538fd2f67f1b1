"""download_model.sh against a server on the loopback interface."""
import http.server
import os
import shutil
import subprocess
import threading

from harness import ROOT, Skip, check, equal, main, scratch, test

NAME = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
MTP = "DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32.gguf"
MODEL = b"GGUF\x03\x00\x00\x00" + bytes(range(256)) * 2000


class Hub:
    """What the server does is set per test; requests are noted."""

    def __init__(self, data=MODEL, ranges=True, status=200, cuts=(), token=None, short_by=0, etag='"one"'):
        self.data, self.ranges, self.status, self.etag = data, ranges, status, etag
        self.cuts = list(cuts)          # byte counts after which the connection breaks
        self.token, self.short_by = token, short_by
        self.requests = []              # (path, Range)

    def __enter__(self):
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                hub.serve(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = "http://127.0.0.1:%d/models" % self.server.server_port
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def serve(self, request):
        asked = request.headers.get("Range")
        self.requests.append((request.path, asked))
        status = self.status
        if self.token and request.headers.get("Authorization") != "Bearer " + self.token:
            status = 401
        if status != 200:
            body = b"<html>no</html>"
            request.send_response(status)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)
            return
        self.send(request, asked)

    def send(self, request, asked):
        begin, end = 0, len(self.data)
        if asked and self.ranges:
            first, last = asked.split("=")[1].split("-")
            begin, end = int(first), min(int(last) + 1, end) if last else end
            request.send_response(206)
            request.send_header("Content-Range", "bytes %d-%d/%d" % (begin, end - 1, len(self.data)))
        else:
            request.send_response(200)
        request.send_header("ETag", self.etag)
        body = self.data[begin:end]
        if len(body) > 8:
            body = body[:len(body) - self.short_by]     # a server that does not keep its word
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if len(body) > 8 and self.cuts:
            body = body[:self.cuts.pop(0)]
            request.close_connection = True
        try:
            request.wfile.write(body)
        except OSError:
            pass                                        # the script asked for the beginning only


def folder():
    """A fresh copy of the script in a folder of its own."""
    here = os.path.join(scratch(), "tree")
    shutil.rmtree(here, ignore_errors=True)
    os.makedirs(os.path.join(here, "home"))
    shutil.copy(os.path.join(ROOT, "download_model.sh"), here)
    return here


def run(here, hub, *args, **env):
    if not shutil.which("curl"):
        raise Skip("curl is not installed")
    known = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "DS4_")) and "proxy" not in k.lower()}
    known.update(HOME=os.path.join(here, "home"), DS4_MODEL_URL=hub.url if hub else "http://127.0.0.1:9")
    known.update(env)
    p = subprocess.run(["sh", os.path.join(here, "download_model.sh"), *args], env=known, cwd=scratch(),
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    return p.returncode, p.stdout.decode(), p.stderr.decode()


def read(*parts):
    with open(os.path.join(*parts), "rb") as f:
        return f.read()


def nothing_left(here):
    equal(os.listdir(os.path.join(here, "gguf")) if os.path.isdir(os.path.join(here, "gguf")) else [], [], "gguf/")
    check(not os.path.lexists(os.path.join(here, "ds4flash.gguf")), "a link was made")


@test
def fetches_checks_and_links():
    here = folder()
    with Hub() as hub:
        code, out, err = run(here, hub, "q2-imatrix")
    equal(code, 0, "exit code (%s)" % err)
    equal(out, "", "stdout")
    equal(read(here, "gguf", NAME) == MODEL, True, "content equal")
    equal(os.readlink(os.path.join(here, "ds4flash.gguf")), "gguf/" + NAME, "link")
    equal(os.listdir(os.path.join(here, "gguf")), [NAME], "gguf/")
    equal(hub.requests[0][0], "/models/" + NAME, "path asked for")


@test
def second_run_needs_no_network():
    here = folder()
    with Hub() as hub:
        run(here, hub, "q2-imatrix")
    os.remove(os.path.join(here, "ds4flash.gguf"))
    code, _, err = run(here, None, "q2-imatrix")
    equal(code, 0, "exit code (%s)" % err)
    check(os.path.islink(os.path.join(here, "ds4flash.gguf")), "the link came back")


@test
def draft_model_is_not_linked():
    here = folder()
    with Hub() as hub:
        code, _, err = run(here, hub, "mtp")
    equal(code, 0, "exit code (%s)" % err)
    check(os.path.exists(os.path.join(here, "gguf", MTP)), "the file is there")
    check(not os.path.lexists(os.path.join(here, "ds4flash.gguf")), "no link")


@test
def goes_on_after_a_cut():
    here = folder()
    with Hub(cuts=[100000, 200000]) as hub:
        code, _, err = run(here, hub, "q2-imatrix")
    equal(code, 0, "exit code (%s)" % err)
    equal(read(here, "gguf", NAME) == MODEL, True, "content equal")
    equal([r for _, r in hub.requests], ["bytes=0-7", None, "bytes=100000-", "bytes=300000-"], "ranges asked for")


@test
def goes_on_where_an_earlier_run_stopped():
    here = folder()
    os.mkdir(os.path.join(here, "gguf"))
    part = os.path.join(here, "gguf", NAME + ".part")
    with open(part, "wb") as f:
        f.write(MODEL[:5000])
    with open(part + ".etag", "w") as f:
        f.write('"one"\n')
    with Hub() as hub:
        code, _, err = run(here, hub, "q2-imatrix")
    equal(code, 0, "exit code (%s)" % err)
    equal(read(here, "gguf", NAME) == MODEL, True, "content equal")
    equal(hub.requests[-1][1], "bytes=5000-", "range asked for")


@test
def starts_again_when_the_file_changed():
    here = folder()
    os.mkdir(os.path.join(here, "gguf"))
    part = os.path.join(here, "gguf", NAME + ".part")
    with open(part, "wb") as f:
        f.write(b"x" * 5000)
    with open(part + ".etag", "w") as f:
        f.write('"another"\n')
    with Hub() as hub:
        code, _, err = run(here, hub, "q2-imatrix")
    equal(code, 0, "exit code (%s)" % err)
    equal(read(here, "gguf", NAME) == MODEL, True, "content equal")
    check("has changed" in err, "says why", err)


@test
def works_without_ranges():
    here = folder()
    with Hub(ranges=False, cuts=[100000]) as hub:
        code, _, err = run(here, hub, "q2-imatrix")
    equal(code, 0, "exit code (%s)" % err)
    equal(read(here, "gguf", NAME) == MODEL, True, "content equal")


@test
def refuses_a_page_in_place_of_a_model():
    here = folder()
    with Hub(data=b"<!DOCTYPE html><html>please log in</html>") as hub:
        code, _, err = run(here, hub, "q2-imatrix")
    equal(code, 1, "exit code")
    check("not a GGUF file" in err and "<!DOCTYP" in err, "says what came", err)
    nothing_left(here)


@test
def refuses_a_wrong_size():
    here = folder()
    with Hub(short_by=100) as hub:
        code, _, err = run(here, hub, "q2-imatrix")
    equal(code, 1, "exit code")
    check("instead of %d" % len(MODEL) in err, "says both sizes", err)
    nothing_left(here)


@test
def refused_access_names_the_token():
    here = folder()
    with Hub(token="secret") as hub:
        code, _, err = run(here, hub, "q2-imatrix")
        equal(code, 1, "exit code")
        check("--token" in err and "HF_TOKEN" in err, "names the remedy", err)
        nothing_left(here)
        equal(run(here, hub, "--token", "wrong", "q2-imatrix")[0], 1, "exit code with a wrong token")


@test
def token_by_flag_environment_and_cache():
    for how in ("flag", "environment", "cache"):
        here = folder()
        args, env = ["q2-imatrix"], {}
        if how == "flag":
            args += ["--token", "secret"]
        elif how == "environment":
            env["HF_TOKEN"] = "secret"
        else:
            cache = os.path.join(here, "home", ".cache", "huggingface")
            os.makedirs(cache)
            with open(os.path.join(cache, "token"), "w") as f:
                f.write("secret\n")
        with Hub(token="secret") as hub:
            code, _, err = run(here, hub, *args, **env)
        equal(code, 0, "exit code by %s (%s)" % (how, err))


@test
def missing_file_and_server_errors():
    for status, words in ((404, "no such file"), (500, "answered 500"), (429, "try again later")):
        here = folder()
        with Hub(status=status) as hub:
            code, _, err = run(here, hub, "q2-imatrix")
        equal(code, 1, "exit code at %d" % status)
        check(words in err, "sentence at %d" % status, err)
        nothing_left(here)


@test
def unreachable_server():
    here = folder()
    code, _, err = run(here, None, "q2-imatrix")
    equal(code, 1, "exit code")
    check("127.0.0.1" in err and "onnect" in err, "says what failed", err)
    nothing_left(here)


@test
def full_disk_is_noticed_before():
    here = folder()
    fake = os.path.join(here, "bin")
    os.mkdir(fake)
    with open(os.path.join(fake, "df"), "w") as f:
        f.write("#!/bin/sh\necho header\necho /dev/x 100 90 10 90% /\n")
    os.chmod(os.path.join(fake, "df"), 0o755)
    with Hub() as hub:
        code, _, err = run(here, hub, "q2-imatrix", PATH=fake + ":" + os.environ["PATH"])
    equal(code, 1, "exit code")
    check("needed" in err and "free" in err, "tells both numbers", err)
    nothing_left(here)


@test
def keeps_a_real_file_named_like_the_link():
    here = folder()
    with open(os.path.join(here, "ds4flash.gguf"), "w") as f:
        f.write("mine")
    with Hub() as hub:
        code, _, err = run(here, hub, "q2-imatrix")
    equal(code, 1, "exit code")
    equal(read(here, "ds4flash.gguf"), b"mine", "the file")
    equal(hub.requests, [], "requests")


@test
def usage_errors():
    here = folder()
    for args, words in (([], "which model"), (["q3"], "unknown model"), (["--fast", "q2"], "unknown option"),
                        (["q2", "q4"], "one model"), (["q2", "--token"], "needs a value")):
        code, _, err = run(here, None, *args)
        equal(code, 2, "exit code of %r" % args)
        check(words in err, "sentence of %r" % args, err)
    code, out, _ = run(here, None, "--help")
    equal(code, 0, "exit code of --help")
    for name in ("q2-imatrix", "q4-imatrix", "mtp", "--token"):
        check(name in out, "--help names " + name)


main()
