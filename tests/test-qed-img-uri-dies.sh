#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The server dies at any of the writes, zero requests and flushes of a verb:
# qed-img exits with 1 and names the server, the disk is what it was or what it
# should become, and the same command completes when the server is back.

source ./functions.sh nbd libnbd qemu

cd $d
cat >dies <<'END'
# Do what changes the image, or die, if $d/left has come to 0.
count ()
{
    left=$(cat $d/left)
    if [ $left -eq 0 ]; then
        kill -KILL $PPID
        exit 1
    fi
    echo $((left - 1)) >$d/left
}
case $1 in
    get_size) stat -c %s $d/x.raw;;
    can_write|can_flush|can_zero) ;;
    pread) dd if=$d/x.raw bs=1M iflag=skip_bytes,count_bytes count=$3 skip=$4;;
    pwrite) count
            dd of=$d/x.raw bs=1M oflag=seek_bytes seek=$4 conv=notrunc;;
    zero) count
          dd if=/dev/zero of=$d/x.raw bs=1M iflag=count_bytes count=$3 \
             oflag=seek_bytes seek=$4 conv=notrunc;;
    flush) count;;
    *) exit 2;;
esac
END
chmod +x dies
export NBDKIT_VALGRIND=
"$PYTHON" - <<'END'
import os, shlex, shutil, subprocess
import qedimg, qedtest

cs, MiB = 4096, 1 << 20
base = os.path.abspath("base.raw")
with open("base.copy", "wb") as f:
    b = os.urandom(MiB)
    f.write(b)
with open("other.raw", "wb") as f:
    f.write(b[:MiB - 20 * cs] + os.urandom(20 * cs))

def save(name, bad):
    img = qedimg.Image(MiB, cs, 2, backing=base)
    for c in range(5, 250, 17):
        at = img.data(c)
    img.zero(3)
    if bad:
        img.alloc(3)            # leaked
        img.data(251)
        img.data(252, at=at)    # shared
    img.save(name)
    with open(name, "ab") as f:
        f.write(os.urandom(2 * MiB))
save("good.copy", False)
save("bad.copy", True)

def content():
    qedtest.run("qemu-img", "convert", "-f", "qed", "-O", "raw", "x.raw",
                "got.raw")
    with open("got.raw", "rb") as f:
        return f.read()

def start(image):
    shutil.copy(image, "x.raw")
    shutil.copy("base.copy", "base.raw")

def run(uri, *args):
    dirs = [] if args[0] == "check" else ["--backing-dir", qedtest.TMP]
    args = [a if a != "URI" else uri for a in args]
    return subprocess.run([*shlex.split(os.environ["QED_IMG"]), args[0],
                           *dirs, *args[1:]], capture_output=True, text=True)

def clean(*args):
    """With a server that doesn't die."""
    with qedtest.Server("file", qedtest.TMP + "/x.raw") as s:
        p = run(s.uri, *args)
        assert p.returncode == 0, p
        p = run(s.uri, "check", "URI")
        assert p.returncode == 0, p

def dying(k, *args):
    with open("left", "w") as f:
        f.write(str(k))
    with qedtest.Server("sh", qedtest.TMP + "/dies") as s:
        s.killed = True
        p = run(s.uri, *args)
        if p.returncode != 0:
            assert p.returncode == 1, (k, p)
            assert f"qed-img: {s.uri}: " in p.stderr, (k, p)
        return p.returncode == 0

for image, *args in (
        ("bad.copy", "check", "-r", "all", "URI"),
        ("good.copy", "resize", "URI", "1536k"),
        ("good.copy", "resize", "--shrink", "URI", "512k"),
        ("good.copy", "rebase", "-F", "raw", "-b",
         os.path.abspath("other.raw"), "URI"),
        ("good.copy", "commit", "URI")):
    start(image)
    before = content()
    clean(*args)
    after = content()
    assert (before == after) == (args[0] != "resize")
    k, n, step = 0, 0, 1 if not os.environ.get("QED_IMG", "").startswith(
        "valgrind") else 7
    while True:
        start(image)
        if dying(k, *args):
            break
        n += 1
        assert content() in (before, after), (args, k)
        clean(*args)
        assert content() == after, (args, k)
        k += step + k // 8
    print(args, "died", n, "times, the last at", k)
    assert n > 1
END
