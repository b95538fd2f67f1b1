"""A ds4-server that runs beside a test."""
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request

from harness import BIN, PATIENCE, ROOT, THREADS, Skip, check, environment, path_of, scratch, wait_until

SERVER = os.path.join(BIN, "ds4-server")
MODEL = os.path.join(ROOT, "models", "tiny", "ds4-tiny.gguf")


class Running:
    """A server on any free port; .url once it listens."""

    def __init__(self, *args, env=None, port=True, program=SERVER):
        if not os.path.exists(program):
            raise Skip("%s is not built" % program)
        self.log = path_of("server-%d.log" % id(self))
        with open(self.log, "wb") as err:
            self.process = subprocess.Popen([program, "-m", MODEL, "-c", "4096", *THREADS,
                                             *(("--port", "0") if port else ()), *args],
                                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err,
                                            env=env or environment(), cwd=scratch())
        self.url = None

    def text(self):
        with open(self.log, "rb") as f:
            return f.read().decode("utf-8", "replace")

    def wait_for(self, word):
        check(wait_until(lambda: word in self.text() or self.process.poll() is not None) and word in self.text(),
              "no %r on stderr" % word, self.text()[-400:])
        return self

    def serving(self):
        self.wait_for("listening on http")
        self.url = re.search(r"listening on (http://\S+)", self.text()).group(1)
        self.wait_for("health and figures")
        return self

    def get(self, path, body=None, **headers):
        """(status, text)"""
        names = {k.replace("_", "-"): v for k, v in headers.items()}
        request = urllib.request.Request(self.url + path, data=body.encode() if body else None, headers=names)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as r:
                return r.status, r.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def end(self, number=signal.SIGTERM):
        """Sends the signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
