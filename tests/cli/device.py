"""A device that a test can lose (tests/tiny/fate.h), and tests over it. There are two: the CPU's backend as if its memory
were far, in every build; and the CUDA backend over the driver that is none, whose kernels run lane by lane, where that is
built."""
import contextlib
import os
import subprocess

import harness
from harness import BIN, PATIENCE, Skip, environment, scratch, test


class Device:
    """One of the two, and what becomes of it."""

    def __init__(self, kind):
        self.far = kind == "far"
        self.folder = BIN if self.far else os.path.join(os.path.dirname(BIN), "mock", "bin")
        self.says = "stopped answering" if self.far else "CUDA_ERROR_ILLEGAL_ADDRESS"
        self.missing = "no far device" if self.far else "CUDA_ERROR_NO_DEVICE"
        self.fate = os.path.join(scratch(), "fate-" + kind)
        os.makedirs(self.fate, exist_ok=True)
        self.back()

    def program(self, name):
        path = os.path.join(self.folder, name + "-far" if self.far else name)
        if not os.path.exists(path):
            raise Skip("%s is not built" % path)
        return path

    def environment(self):
        return environment(DEVICE_FATE=self.fate)

    def lose(self, *calls):
        """When so many steps (far), or calls of the driver, have gone well."""
        self.put("lose", " ".join(map(str, calls or (0,))))

    def away(self):
        self.put("away", "")

    def back(self):
        for name in "lose", "away":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.fate, name))

    def put(self, name, text):
        """Whole at once."""
        whole = os.path.join(self.fate, "." + name)
        with open(whole, "w", encoding="ascii") as f:
            f.write(text)
        os.rename(whole, os.path.join(self.fate, name))

    def run(self, name, *args):
        p = subprocess.run([self.program(name), *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, env=self.environment(), cwd=scratch(), timeout=PATIENCE)
        return harness.Result(p.returncode, p.stdout, p.stderr.decode("utf-8", "replace"))


def on_both(function):
    """A test for each of the devices."""
    for kind in "far", "mock":
        def run(kind=kind):
            function(Device(kind))
        run.__name__ = "%s_%s" % (function.__name__, kind)
        test(run)


def on_far(function):
    def run():
        function(Device("far"))
    run.__name__ = function.__name__
    test(run)
