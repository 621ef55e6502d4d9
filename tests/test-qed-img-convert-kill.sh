#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A kill or a signal at any moment of convert leaves the old target, or the new
# one complete, and nothing else; also while a server doesn't answer.

source ./functions.sh nbd libnbd

mkdir $d/dir
cd $d/dir
"$PYTHON" - <<'END'
import os, random, shlex, signal, subprocess, time
import qedtest
from qedtest import MiB, qed_img

r = random.Random(3)
disk = r.randbytes(24 * MiB)
with open("a.raw", "wb") as f:
    f.write(disk)
command = [*shlex.split(os.environ["QED_IMG"]), "convert", "-S", "512"]

def default():
    for s in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(s, signal.SIG_DFL)

def start(*args):
    return subprocess.Popen([*command, *args], preexec_fn=default,
                            stderr=subprocess.PIPE, text=True)

def check(path, new):
    """Has it the new content?"""
    with open(path, "rb") as f:
        if f.read(3) == b"old":
            assert f.read() == b"\n" and not new
            return False
    qed_img("convert", path, "../got.raw")
    with open("../got.raw", "rb") as f:
        assert f.read() == disk
    return True

begin = time.monotonic()
qed_img("convert", "-S", "512", "a.raw", "new")
seconds = time.monotonic() - begin
os.unlink("new")

killed = 0
SIGNALS = signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP
for i in qedtest.some(range(24), 4):
    with open("old", "w") as f:
        f.write("old\n")
    target = "old" if i % 2 else "new"
    p = start("-O", "qed" if i // 2 % 2 else "raw", "a.raw", target)
    time.sleep(r.random() * seconds)
    s = SIGNALS[i // 4 % 4]
    p.send_signal(s)
    _, err = p.communicate()
    assert p.returncode in (-s, 0, 1), (p.returncode, err)
    if p.returncode == 1:
        assert err.endswith(": interrupted\n"), err
    killed += p.returncode != 0
    if os.path.exists("new"):
        assert check("new", p.returncode == 0)
        os.unlink("new")
    else:
        assert target == "old" or p.returncode != 0
    check("old", target == "old" and p.returncode == 0)
    assert sorted(os.listdir(".")) == ["a.raw", "old"], os.listdir(".")
print(killed, "were killed")
assert killed > 0

# A server that doesn't answer, source and target
for args in ("SERVER", "x"), ("-n", "a.raw", "SERVER"):
    with open("../out.raw", "wb") as f:
        f.write(disk)
    with qedtest.Server("--filter=delay", "file", "../out.raw", "rdelay=50",
                        "wdelay=50") as s:
        p = start("-f", "raw", *(s.uri if a == "SERVER" else a for a in args))
        time.sleep(1)
        assert p.poll() is None
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=10)
        assert p.returncode == 1, (p.returncode, err)
        assert err == "qed-img: interrupted\n", err
        s.kill()
    assert not os.path.exists("x")
END

# Servers that die: an error, and no new file
cat >../dies <<'END'
case $1 in
    get_size) stat -c %s a.raw;;
    can_write|can_flush|can_zero) ;;
    pread|pwrite|zero)
        if [ $4 -ge 8388608 ]; then kill -KILL $PPID; exit 1; fi;;&
    pread) dd if=a.raw bs=1M iflag=skip_bytes,count_bytes count=$3 skip=$4;;
    pwrite) cat >/dev/null;;
    zero|flush) ;;
    *) exit 2;;
esac
END
sed -i '1i #!/usr/bin/env bash' ../dies
chmod +x ../dies
cat >../test.py <<'END'
import os, sys
import qedtest
with qedtest.Server("sh", qedtest.TMP + "/dies") as s:
    s.killed = True
    args = [s.uri if a == "URI" else a for a in sys.argv[1:]]
    _, err = qedtest.qed_img("convert", "-f", "raw", *args, status=1)
    assert err.startswith(f"qed-img: {s.uri}: "), err
    print(err)
END
export NBDKIT_VALGRIND=
for args in 'URI x' 'URI old' '--salvage URI x' '-O qed URI x' '-n a.raw URI'; do
    echo old >old
    "$PYTHON" ../test.py $args
    test "$(cat old)" = old
    test "$(echo *)" = 'a.raw old'
done
