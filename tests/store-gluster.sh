#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image in a distributed store that fails under load: GlusterFS, three
# servers on this machine.  "make check-store" runs it, as root.
#
# First the image is a file in a mount of the store.  Then there is no mount,
# and qemu-nbd exports the image to nbdkit.  In each of some rounds, with
# requests in flight:
#
#   - One server of the store is killed, and comes back later.  Clients of
#     nbdkit see none of this.
#   - nbdkit is killed.  No acknowledged write is lost.
#   - Another server is killed.  While it is away the machine with nbdkit
#     crashes: nbdkit and the store's client (the mount or qemu-nbd) are killed
#     at once.  Another machine takes over.  No flushed write is lost.
#   - The store heals itself.  Then both replicas of the image are the same.
#
# At last all servers of the store are killed.  Requests fail, and once the
# store is back no flushed write is lost.
#
# After each of these qed-img check finds no corruption.
#
# In the end the verifier must notice that writes are missing in an old copy of
# the image, and after a crash without flushes.
#
# Variables of the environment: ACCESS="mount nbd" ROUNDS=3 SECONDS_EACH=4
# SEED=1.

if [ -z "$QED_STORE_INSIDE" ]; then
    for p in glusterd unshare; do
        if ! command -v $p >/dev/null; then
            echo "$0: no $p (Debian: glusterfs-server, util-linux)" >&2
            exit 77
        fi
    done
    # Mounts, addresses and processes of its own.  All of them end with this,
    # and a store that runs on this machine is left alone.
    QED_STORE_INSIDE=1 exec unshare --mount --net --pid --fork --mount-proc \
        --kill-child bash "$0" "$@"
fi

source ./functions.sh nbd gluster glusterd mount.glusterfs ip qemu-nbd

set +x
export address=192.0.2.1
ip link set lo up
ip addr add $address/32 dev lo
mkdir $d/lib $d/log $d/brick0 $d/brick1 $d/arbiter
mount --bind $d/lib /var/lib/glusterd
mount --bind $d/log /var/log/glusterfs
mount -t tmpfs none /run
mkdir /run/gluster
cleanup_fn umount /var/lib/glusterd /var/log/glusterfs /run
cleanup_fn end_store
end_store ()
{
    local m
    for m in $(awk '$3 == "fuse.glusterfs" { print $2 }' /proc/self/mounts); do
        umount -l $m
    done
    # Only those of this test are visible here.
    kill -KILL $(pgrep -x 'glusterd|glusterfs|glusterfsd') 2>/dev/null || :
    wait_for 10 eval "! pgrep -x 'glusterd|glusterfs|glusterfsd' >/dev/null"
}

glusterd
wait_for 30 gluster --mode=script peer status >/dev/null
gluster --mode=script volume create qed replica 3 arbiter 1 \
        $address:$d/brick0 $address:$d/brick1 $address:$d/arbiter force
gluster --mode=script volume start qed

"$PYTHON" - <<'END'
import contextlib
import filecmp
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

import qedimg
import qedtest
from crashload import History, Load, Lost
from qedtest import MiB, TMP

ACCESS = os.environ.get("ACCESS", "mount nbd").split()
ROUNDS = int(os.environ.get("ROUNDS", 3))
SECONDS = float(os.environ.get("SECONDS_EACH", 4))
SEED = os.environ.get("SEED", "1")
SIZE = 256 * MiB
HOST = os.environ["address"]
SERVERS = ("brick0", "brick1", "arbiter")


def say(*args):
    print(f"{time.monotonic() - began:6.1f} s ", *args, flush=True)


#----------------------------------------------------------------------
# The store.

def gluster(*args):
    return qedtest.run("gluster", "--mode=script", "volume", *args)


def kill_store(name):
    """Kill one of SERVERS."""
    where = os.path.join(TMP, name)[1:].replace("/", "-")
    with open(f"/run/gluster/vols/qed/{HOST}-{where}.pid") as f:
        os.kill(int(f.read()), signal.SIGKILL)


def start_store():
    """Start those of its servers that don't run.  A while passes until the
    store knows which."""
    def all_run():
        gluster("start", "qed", "force")
        status = gluster("status", "qed")
        return all(re.search(fr"Brick \S*/{name} +[0-9]+ +0 +Y", status)
                   for name in SERVERS)
    qedtest.wait_until(all_run)


def heal():
    """Wait until the store has repaired itself.  Then either replica is the
    image."""
    def healed():
        # It heals by itself when a server comes back.  What the crash of a
        # client leaves it finds every ten minutes, or when told to.  It may
        # be busy.
        with contextlib.suppress(AssertionError):
            gluster("heal", "qed")
        out = gluster("heal", "qed", "info", "summary")
        totals = [line.split(":")[1].strip() for line in out.splitlines()
                  if line.startswith("Total Number of entries:")]
        # A client that was killed, or is ending, may still be the cause of
        # a difference that is about to go.
        return (totals == ["0"] * len(SERVERS)
                and filecmp.cmp(*replicas, shallow=False))
    start = time.monotonic()
    replicas = [f"{TMP}/{name}/disk.qed" for name in SERVERS[:2]]
    try:
        qedtest.wait_until(healed, 120)
    except AssertionError:
        say(gluster("status"), gluster("heal", "qed", "info"))
        raise
    say(f"  healed in {time.monotonic() - start:.1f} s, both replicas are "
        "equal")


class Mount:
    """A machine that has the store mounted.  The mount keeps writes back until
    a flush, so without flushes a crash loses some."""

    WRITE_BEHIND = "on"

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="m", dir=TMP)
        qedtest.run("mount", "-t", "glusterfs", HOST + ":/qed",
                    self.dir)
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    if f.read().endswith(self.dir.encode() + b"\0"):
                        self.pid = int(pid)

    def image(self, name):
        """The parameter of nbdkit."""
        return f"file={self.dir}/{name}"

    def crash(self, kill_nbdkit):
        os.kill(self.pid, signal.SIGKILL)
        kill_nbdkit()
        self.end()

    def end(self):
        qedtest.run("umount", "-l", self.dir)


class Export:
    """A machine where qemu-nbd exports what is in the store.  Were writes kept
    back, reads could miss some that have been acknowledged."""

    WRITE_BEHIND = "off"

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="e", dir=TMP)
        self.exports = {}

    def image(self, name):
        sock = f"{self.dir}/{name}.sock"
        if name not in self.exports:
            pidfile = f"{self.dir}/{name}.pid"
            with open(TMP + "/qemu-nbd", "ab") as log:
                self.exports[name] = subprocess.Popen(
                    ["qemu-nbd", "-t", "-e", "10", "-f", "raw", "-k", sock,
                     "--pid-file", pidfile, f"gluster://{HOST}/qed/{name}"],
                    stdin=subprocess.DEVNULL, stderr=log)
            qedtest.wait_until(lambda: os.path.exists(pidfile))
        return f"uri=nbd+unix:///?socket={sock}"

    def crash(self, kill_nbdkit):
        for p in self.exports.values():
            p.kill()
        kill_nbdkit()
        self.end()

    def end(self):
        for p in self.exports.values():
            p.terminate()
            p.wait()
        self.exports = {}


@contextlib.contextmanager
def in_store(name):
    """The path of a file in the store, as a machine sees it that has just
    mounted it."""
    m = Mount()
    yield f"{m.dir}/{name}"
    m.end()


def create(name, access):
    with in_store(name) as path:
        qedtest.qed_img("create", path, str(SIZE))
        if access is Export:
            # An export can't grow.
            os.truncate(path, SIZE + 64 * MiB)


def verify(history, machine, name, flushed_only):
    """Check the image and what is on its disk.  Say what was seen."""
    with in_store(name) as path:
        refs = qedimg.References(path)
        refs.check_consistent()
        try:
            qedtest.qed_img("check", path)
            result = "clean"
        except AssertionError:
            qedtest.qed_img("check", path, status=3)
            result = "leaks"
    with qedtest.Server("-r", "qed", machine.image(name)) as s:
        wanted, gone = history.check(s.connect(), flushed_only)
    say(f"  {wanted} sectors had changed and are right, {gone} unflushed ones "
        f"are gone; check: {result}" + ", unclean" * refs.need_check())


#----------------------------------------------------------------------
# The walk.

def serve(machine, name, history, seed, *steps, crash=False, flush=True,
          reads=True):
    """Serve the image NAME, with a load on it.  The time is divided into
    equal parts, with one of the STEPS after each but the last.  At the end
    nbdkit is killed; CRASH: with its machine.  FLUSH: flushes have an effect.
    READS: what is read is checked."""
    args = ["qed", machine.image(name)]
    if not flush:
        args = ["--filter=fua", *args, "fuamode=discard"]
    with qedtest.Server(*args) as s:
        load = Load(s.uri, history, f"{SEED} {seed}", reads,
                    flushes=0.04 if flush else 0.3)
        load.start()
        for step in steps:
            time.sleep(SECONDS / (len(steps) + 1))
            step()
        time.sleep(SECONDS / (len(steps) + 1))
        errors = history.errors.copy()
        if crash:
            machine.crash(s.kill)
        else:
            s.kill()
        load.join()
        # In a crash nbdkit may live a little longer than the store's client.
        if crash:
            history.errors = errors


def is_lost_without_flushes(access, machine, name):
    """MACHINE crashes with an image that was never flushed.  Does the verifier
    notice?"""
    create(name, access)
    history = History(SIZE)
    serve(machine, name, history, name, crash=True, flush=False)
    other = access()
    try:
        verify(history, other, name, True)
    except AssertionError as e:
        say(f"  {e}")
        return True
    finally:
        other.end()
    return False


def walk(access):
    gluster("set", "qed", "performance.write-behind", access.WRITE_BEHIND)
    create("disk.qed", access)
    history = History(SIZE)
    here, there = access(), access()
    old = None
    for n in range(ROUNDS):
        one, other = SERVERS[n % 2], SERVERS[1 - n % 2]
        say(f"round {n + 1}: {one} is killed and restarted, nbdkit is killed")
        serve(here, "disk.qed", history, (n, 1), lambda: kill_store(one),
              start_store)
        verify(history, here, "disk.qed", False)
        heal()
        if old is None:
            old = TMP + "/old.qed"
            with in_store("disk.qed") as path:
                shutil.copyfile(path, old)

        say(f"round {n + 1}: {other} is killed, the machine crashes, another "
            "takes over")
        serve(here, "disk.qed", history, (n, 2), lambda: kill_store(other),
              crash=True)
        if n == 0:
            newer = history.copy()
        here, there = there, here
        verify(history, here, "disk.qed", True)
        there = access()
        start_store()
        heal()
    assert not history.errors, history.errors

    say("all servers of the store are killed and restarted, nbdkit is killed")
    def all_die():
        for name in SERVERS:
            kill_store(name)
    serve(here, "disk.qed", history, 3, all_die, start_store, lambda: None,
          reads=False)
    say("  errors:", dict(history.errors) or "none, requests have waited")
    here.end()
    here = access()
    heal()
    verify(history, here, "disk.qed", True)

    say("nbdkit repairs the image, and goes on")
    serve(here, "disk.qed", history, 4)
    verify(history, here, "disk.qed", False)
    heal()
    say("  requests answered:", dict(history.count))

    say("an old copy of the image: must be noticed")
    with qedtest.Server("-r", "qed", old) as s:
        try:
            newer.check(s.connect(), True)
        except Lost as e:
            say(f"  {e}")
        else:
            raise AssertionError("it was not noticed")

    if access.WRITE_BEHIND == "on":
        say("a crash without flushes: must be noticed")
        for n in range(20):
            if is_lost_without_flushes(access, here, f"unsafe{n}.qed"):
                break
            here = access()
        else:
            raise AssertionError("it was not noticed")
    else:
        here.end()
    there.end()


began = time.monotonic()
for name in ACCESS:
    say(f"access: {name}")
    walk({"mount": Mount, "nbd": Export}[name])
END
echo PASS
