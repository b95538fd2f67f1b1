#!/usr/bin/env python3
"""Many connections on one server: idle ones, streams that are read, and streams that nobody reads.

  load.py --url http://127.0.0.1:8000 --pid PID [--idle 2000] [--streams 200] [--unread 0.1] [--seconds 120]

Idle connections ask GET /health once and stay. Streams POST --body to --path; a stream that nobody reads is only
felt when its answer (--unread-body) is longer than what the kernel holds, some MB. Prints the resident memory of
the server before, with the idle ones, at its highest and after; the longest a stream waited for its first event
and the largest gap between two events of a stream that is read (give the server a slot for each stream, or the gap
holds its time in the queue). Exit status 1: a read stream did not end well, an idle connection was lost, or a limit
(--max-gap-ms, --max-growth-mb) was passed."""
import argparse
import json
import os
import resource
import selectors
import socket
import sys
import time
import urllib.parse

HEALTH = "GET /health HTTP/1.1\r\nHost: {host}\r\n{auth}\r\n"
POST = ("POST {path} HTTP/1.1\r\nHost: {host}\r\n{auth}Content-Type: application/json\r\n"
        "Content-Length: {length}\r\n\r\n{body}")


def resident(pid):
    """Bytes of a process; of the one that asked for nothing, 0."""
    if not pid:
        return 0
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Stream:
    """One POST whose answer is read event by event; the socket is gone once it ended."""

    def __init__(self, sock):
        self.sock, self.tail, self.begin = sock, b"", time.monotonic()
        self.events, self.first, self.last, self.gap = 0, 0.0, 0.0, 0.0
        self.status, self.ended = b"", False

    def read(self):
        """False: nothing more comes."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if not data:
            return False
        if not self.status:
            self.status = data[9:12]
        if self.status != b"200":
            return False
        now, seen = time.monotonic(), self.tail + data
        found = seen.count(b"data:")
        self.tail = seen[-4:]                   # shorter than what is counted, so nothing counts twice
        if found:
            if self.events:
                self.gap = max(self.gap, now - self.last)
            else:
                self.first = now - self.begin
            self.last = now
            self.events += found
        self.ended = seen.endswith(b"0\r\n\r\n")
        return not self.ended


def connect(where, small=False):
    s = socket.socket(where[0], socket.SOCK_STREAM)
    if small:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect(where[1])
    return s


def open_idle(where, n, request):
    idle = []
    for _ in range(n):
        s = connect(where)
        s.sendall(request)
        if not s.recv(4096).startswith(b"HTTP/1.1 200"):
            sys.exit("load: /health is not 200")
        idle.append(s)
    return idle


def still_open(sock):
    sock.setblocking(False)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def read_streams(streams, seconds, pid):
    """Until all have ended or time is over; the highest resident size seen."""
    chosen = selectors.DefaultSelector()
    for s in streams:
        s.sock.setblocking(False)
        chosen.register(s.sock, selectors.EVENT_READ, s)
    end, highest = time.monotonic() + seconds, resident(pid)
    looked = time.monotonic()
    while chosen.get_map() and time.monotonic() < end:
        for key, _ in chosen.select(0.2):
            if not key.data.read():
                chosen.unregister(key.fileobj)
                key.fileobj.close()
        if time.monotonic() - looked > 0.2:
            looked, highest = time.monotonic(), max(highest, resident(pid))
    return highest


def main():
    body = json.dumps({"model": "x", "stream": True, "max_tokens": 64, "temperature": 0,
                       "messages": [{"role": "user", "content": "Tell me a story."}]})
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--url", required=True)
    p.add_argument("--path", default="/v1/chat/completions")
    p.add_argument("--body", default=body)
    p.add_argument("--unread-body", help="of the streams that nobody reads (default: --body)")
    p.add_argument("--api-key")
    p.add_argument("--pid", type=int, help="of the server, for its resident memory")
    p.add_argument("--idle", type=int, default=2000)
    p.add_argument("--streams", type=int, default=200)
    p.add_argument("--unread", type=float, default=0.1, help="part of the streams that nobody reads")
    p.add_argument("--seconds", type=float, default=120)
    p.add_argument("--max-gap-ms", type=float, default=float("inf"))
    p.add_argument("--max-growth-mb", type=float, default=float("inf"))
    a = p.parse_args()

    wanted = a.idle + a.streams + 64
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))

    url = urllib.parse.urlparse(a.url)
    family, _, _, _, address = socket.getaddrinfo(url.hostname, url.port or 80, type=socket.SOCK_STREAM)[0]
    where = (family, address)
    auth = f"Authorization: Bearer {a.api_key}\r\n" if a.api_key else ""
    health = HEALTH.format(host=url.netloc, auth=auth).encode()

    def post(text):
        return POST.format(path=a.path, host=url.netloc, auth=auth, length=len(text.encode()), body=text).encode()

    before = resident(a.pid)
    idle = open_idle(where, a.idle, health)
    with_idle = resident(a.pid)
    n_deaf = round(a.streams * a.unread)
    deaf = [connect(where, small=True) for _ in range(n_deaf)]
    for s in deaf:
        s.sendall(post(a.unread_body or a.body))
    streams = []
    for _ in range(a.streams - n_deaf):
        s = connect(where)
        s.sendall(post(a.body))
        streams.append(Stream(s))
    highest = read_streams(streams, a.seconds, a.pid)
    lost = sum(not still_open(s) for s in idle)
    for s in idle + deaf:
        s.close()
    time.sleep(1)
    after = resident(a.pid)

    refused = sum(s.status in (b"429", b"529") for s in streams)
    bad = [s for s in streams if not s.ended and s.status not in (b"429", b"529")]
    gap = max((s.gap for s in streams), default=0) * 1e3
    mib = 1 << 20
    print(f"{a.idle} idle connections ({lost} lost), {n_deaf} streams never read, {len(streams)} read ({len(bad)} bad,"
          f" {refused} refused for lack of room)")
    wait = max((s.first for s in streams), default=0)
    print(f"{sum(s.events for s in streams)} events, longest wait for the first {wait:.2f} s, largest gap {gap:.0f} ms")
    if a.pid:
        each = (with_idle - before) / max(a.idle, 1)
        print(f"resident MiB: {before / mib:.1f} before, {with_idle / mib:.1f} with the idle ones ({each:.0f} B each),"
              f" {highest / mib:.1f} at most, {after / mib:.1f} after")
    for s in bad[:5]:
        print(f"bad: status {s.status.decode() or 'none'}, {s.events} events, ended {s.ended}")
    good = not bad and not lost and gap <= a.max_gap_ms and (highest - before) / mib <= a.max_growth_mb
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
