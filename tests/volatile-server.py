# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

"""A script for nbdkit's python plugin: a server with a volatile cache, in
which a request goes wrong.

    nbdkit python volatile-server.py file=FILE [KEY=VALUE ...]

FILE is what is durable.  FILE.wrong is made when a request goes wrong.  What is
written stays in memory until a flush.  When the server dies some of it, chosen
at random, is written to FILE, in blocks of 512 bytes, as a power cut would
leave it; at its regular end nothing is.

action=ACTION   error: a request fails with EIO;
                die: the server ends without an answer to it;
                die-after: the server ends when it has answered the request;
                cut: the server closes all connections, and loses nothing;
                hang: it is never answered;
                lose: what isn't durable is lost, and all requests of the
                connections that there are hang: so a power cut looks to a
                client
count=KINDS     the requests that are counted: some of pread, pwrite, zero,
                flush, separated by commas
when=FILE       they are counted when there is such a file
at=K            the K-th of these (from 1) goes wrong; 0, the default: none
forget=true     a flush does nothing, as in a broken server
zero=false      zeroing isn't offered
multi=true      several connections see the same
seed=N          for what is left after the end
"""

import errno
import os
import random
import signal
import socket
import threading
import time

import nbdkit

API_VERSION = 2
BLOCK = 512

options = {"action": "error", "count": "pwrite,zero,flush", "at": "0",
           "when": "/",
           "forget": "false", "zero": "true", "multi": "true", "seed": "0"}
lock = threading.Lock()
cache = {}                      # block number -> bytes
counted = 0
opened, hung = set(), set()     # connections


def config(key, value):
    options[key] = value


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def open(readonly):
    h = os.open(options["file"], os.O_RDWR)
    opened.add(h)
    return h


def close(h):
    opened.discard(h)
    os.close(h)


def get_size(h):
    return os.stat(h).st_size


def can_flush(h):
    return True


def can_zero(h):
    return options["zero"] == "true"


def can_fast_zero(h):
    return can_zero(h)


def can_multi_conn(h):
    return options["multi"] == "true"


def die(h):
    """Leave what a power cut would leave."""
    r = random.Random(options["seed"])
    share = r.random()
    for number, block in cache.items():
        if r.random() < share:
            os.pwrite(h, block, number * BLOCK)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def cut():
    for fd in os.listdir("/proc/self/fd"):
        try:
            s = socket.socket(fileno=os.dup(int(fd)))
            s.getpeername()
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def hang():
    lock.release()
    while True:
        time.sleep(60)


def count(h, kind):
    """Is this the request that goes wrong?  Returns what is to be done after
    it."""
    global counted
    if h in hung:
        hang()
    if (kind not in options["count"].split(",")
            or not os.path.exists(options["when"])):
        return None
    counted += 1
    if counted != int(options["at"]):
        return None
    # For the test.
    os.close(os.open(options["file"] + ".wrong", os.O_CREAT | os.O_WRONLY))
    action = options["action"]
    if action == "die":
        die(h)
    elif action == "cut":
        cut()
    elif action == "hang":
        hang()
    elif action == "lose":
        cache.clear()
        hung.update(opened)
        hang()
    elif action == "error":
        nbdkit.set_error(errno.EIO)
        raise RuntimeError("this request goes wrong")
    return action


def finish(h, after):
    if after == "die-after":
        threading.Timer(0.05, lambda: lock.acquire() and die(h)).start()


def load(h, number):
    return cache.get(number) or os.pread(h, BLOCK, number * BLOCK)


def put(h, buf, offset):
    while len(buf) > 0:
        number, start = divmod(offset, BLOCK)
        n = min(len(buf), BLOCK - start)
        block = bytearray(BLOCK if n == BLOCK else load(h, number))
        block[start:start + n] = buf[:n]
        cache[number] = bytes(block)
        buf = buf[n:]
        offset += n


def pread(h, buf, offset, flags):
    with lock:
        after = count(h, "pread")
        first = offset // BLOCK
        end = (offset + len(buf) + BLOCK - 1) // BLOCK
        data = bytearray(os.pread(h, (end - first) * BLOCK, first * BLOCK))
        for number in range(first, end):
            if number in cache:
                at = (number - first) * BLOCK
                data[at:at + BLOCK] = cache[number]
        start = offset - first * BLOCK
        buf[:] = data[start:start + len(buf)]
        finish(h, after)


def pwrite(h, buf, offset, flags):
    with lock:
        after = count(h, "pwrite")
        put(h, memoryview(buf), offset)
        finish(h, after)


def zero(h, n, offset, flags):
    with lock:
        after = count(h, "zero")
        put(h, memoryview(bytes(n)), offset)
        finish(h, after)


def flush(h, flags):
    with lock:
        after = count(h, "flush")
        if options["forget"] != "true":
            for number, block in cache.items():
                os.pwrite(h, block, number * BLOCK)
            cache.clear()
        finish(h, after)
