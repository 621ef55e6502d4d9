#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# On SIGTERM, SIGINT, or the end of captive nbdkit's command waiting links are
# committed.  The image is clean and no longer than it must be.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import os, random, signal, subprocess, sys
import qedtest
from qedtest import MiB

for kind, cs, sig in qedtest.some((("full", 65536, signal.SIGTERM),
                                   ("chain", 4096, signal.SIGTERM),
                                   ("short", 65536, signal.SIGINT)), 1):
    r = random.Random(kind)
    o = qedtest.Overlay(r, kind, 6 * MiB + 512, cs, 2)
    with qedtest.Server("qed", o.path) as s:
        h = s.connect()
        for _ in range(60):
            n = int(2 ** r.uniform(0, 16))
            qedtest.random_op(r, h, o.disk, r.randrange(o.disk.size - n), n)
        os.kill(s.pid(), sig)
        h.shutdown()
        assert s.process.wait(60) == 0, s.log()
    o.check()

# A captive nbdkit ends with its command.
o = qedtest.Overlay(random.Random(3), "full", 3 * MiB)
client = (sys.executable + ' -m nbd -u "$uri" -c '
          + "'h.pwrite (b\"x\" * 99999, 7)'")
subprocess.run(["nbdkit", "-U", qedtest.TMP + "/captive", "qed", o.path,
                "--run", client], check=True)
o.disk.write(b"x" * 99999, 7)
o.check()
END
