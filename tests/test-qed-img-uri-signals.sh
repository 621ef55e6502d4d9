#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Every verb ends at once at SIGINT, SIGTERM or SIGHUP while an NBD server
# doesn't answer: when it connects, when it reads, and when it writes.

source ./functions.sh nbd libnbd

cd $d
qed-img create -q x.qed 1M
truncate -s 4M x.qed
cat >hangs <<'END'
case $1 in
    get_size) stat -c %s $d/x.qed;;
    can_write|can_flush|can_zero) ;;
    pread) if [ -e $d/reads ]; then touch $d/asked; exec sleep 1000; fi
           dd if=$d/x.qed bs=1M iflag=skip_bytes,count_bytes count=$3 skip=$4;;
    pwrite|zero|flush) touch $d/asked; exec sleep 1000;;
    *) exit 2;;
esac
END
chmod +x hangs
"$PYTHON" - <<'END'
import os, shlex, signal, socket, subprocess
import qedtest

read = ("info",), ("check",), ("map",), ("commit",), ("compare", "x.qed")
write = (("create", "1M"), ("check", "-r", "all"), ("resize", "2M"),
         ("rebase", "-u", "-b", "x", "-F", "raw"))
signals = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

def default():
    for s in signals:
        signal.signal(s, signal.SIG_DFL)

def interrupt(uri, verb, asked):
    s = signals[0]
    signals.append(signals.pop(0))
    args = [verb[0], uri, *verb[1:]] if verb[0] in ("create", "resize") else \
        [*verb, uri]
    p = subprocess.Popen([*shlex.split(os.environ["QED_IMG"]), *args],
                         preexec_fn=default)
    qedtest.wait_until(asked)
    p.send_signal(s)
    assert p.wait(5) == -s, (args, s)

def has_asked():
    return os.path.exists("asked")

# So that a repair has something to write.
with open("x.qed", "r+b") as f:
    f.seek(16)
    f.write(b"\2")              # NEED_CHECK
for verb in qedtest.some(read + write):
    what = []
    if verb[0] != "create":
        what.append("reads")
    if verb in write:
        what.append("writes")
    for w in what:
        for name in "reads", "asked":
            if os.path.exists(name):
                os.unlink(name)
        if w == "reads":
            open("reads", "w").close()
        with qedtest.Server("sh", qedtest.TMP + "/hangs") as s:
            interrupt(s.uri, verb, has_asked)
            s.kill()

    # This one accepts connections, and says nothing.
    with socket.socket(socket.AF_UNIX) as s:
        path = qedtest.TMP + "/silent"
        s.bind(path)
        s.listen()
        accepted = []
        interrupt("nbd+unix:///?socket=" + path, verb,
                  lambda: accepted.append(s.accept()) or True)
        os.unlink(path)
END
