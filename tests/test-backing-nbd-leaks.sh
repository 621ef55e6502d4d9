#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The backing server fails some requests while others succeed.  No space leaks:
# the next requests use it, or nbdkit frees it at the end.

source ./functions.sh nbd libnbd
requires nbdkit eval --version

"$PYTHON" - <<'END'
import os, random
import nbd, qedimg, qedtest

os.chdir(qedtest.TMP)
MiB = 1 << 20
size = 32 * MiB
# Reads of the second half of each MiB fail as long as there is a file "bad".
with qedtest.Server(
        "eval", f"get_size=echo {size}", "thread_model=echo parallel",
        f"""pread=if [ -f {qedtest.TMP}/bad ] &&
                [ $(( ($4 + $3 - 1) % {MiB} )) -ge {MiB // 2} ]; then
                echo EIO broken >&2; exit 1
            fi
            head -c "$3" /dev/zero | tr '\\0' '\\7'""") as below:
    for cs, ts in (MiB, 1), (65536, 4), (4096, 1):
        qedimg.Image(size, cs, ts).save("x.qed")
        base = qedtest.Disk(size)
        base.write(b"\7" * size, 0)
        disk = qedtest.Disk(size, base)
        with qedtest.Server("qed", "x.qed", "backing=" + below.uri) as s:
            h = s.connect()

            def write(offset):
                h.pwrite(b"!" * 700, offset)
                disk.write(b"!" * 700, offset)

            for i in range(6):
                open("bad", "w").close()
                at = i * 4 * MiB + 900
                # A copy-up of a 1 MiB cluster has several parts.  Some of them
                # are written before the error.
                qedtest.expect_error("EIO", h.pwrite, b"?" * 700,
                                     at + MiB // 2 + 1000)
                qedtest.expect_error("EIO", h.pwrite, b"?" * 700, at + MiB - 900
                                     - 400)
                os.unlink("bad")
                write(at + MiB)
                if i % 3 == 2:
                    h.flush()
                    write(at + 2 * MiB)
            length = os.path.getsize("x.qed")
        assert qedimg.References("x.qed").leaks == 0
        with open("x.qed", "rb") as f:
            assert f.read(17)[16] == 0 # clean
        qedtest.run("qed-img", "check", "x.qed")
        with qedtest.Server("-r", "qed", "x.qed", "backing=" + below.uri) as s:
            qedtest.check_disk(s.connect(), disk)
END
