#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# After SIGTERM, SIGINT, or the end of captive nbdkit's command every
# acknowledged write is in the image, which is clean, even if clients are still
# connected with requests in flight.

source ./functions.sh nbd qemu

"$PYTHON" - <<'END'
import contextlib, os, random, signal, subprocess, sys
import nbd, qedimg, qedtest

path = qedtest.TMP + "/t.qed"
MiB = 1 << 20
r = random.Random(11)
for sig in (signal.SIGTERM, signal.SIGINT):
    for cs, ts in qedtest.some(((4096, 1), (65536, 4)), 1):
        size = 16 * MiB
        qedimg.Image(size, cs, ts).save(path)
        disk = qedtest.Disk(size)
        with qedtest.Server("qed", path) as s:
            h = qedtest.connect(s.uri)
            for _ in range(50):
                n = int(2 ** r.uniform(0, 17))
                qedtest.random_op(r, h, disk, r.randrange(size // 2 - n), n)
            flying = []
            for i in range(16):
                offset = size // 2 + i * 512 * 1024 + 1
                b = r.randbytes(300000)
                flying.append((h.aio_pwrite(b, offset), b, offset))
            os.kill(s.pid(), sig)
            done = set()
            with contextlib.suppress(nbd.Error):
                while h.aio_in_flight():
                    h.poll(-1)
            for cookie, b, offset in flying:
                with contextlib.suppress(nbd.Error):
                    if h.aio_command_completed(cookie):
                        disk.write(b, offset)
                        done.add(cookie)
            # nbdkit may wait for a connection that is idle to be closed.
            with contextlib.suppress(nbd.Error):
                h.shutdown()
            del h
            status = s.process.wait(60)
            assert status == 0, s.log()
        # In unfinished writes each sector is old or new.
        model = qedimg.Model(path)
        for cookie, b, offset in flying:
            if cookie not in done:
                got = model.read(offset, len(b))
                assert all(g in (x, 0) for g, x in zip(got, b))
                disk.write(got, offset)
        model.close()
        qedtest.check_image(path, disk)

# A captive nbdkit ends with its command.
qedimg.Image(size, 65536, 4).save(path)
client = (sys.executable + ' -m nbd -u "$uri" -c '
          + "'h.pwrite (b\"x\" * 99999, 7)'")
subprocess.run(["nbdkit", "-U", qedtest.TMP + "/captive", "qed", path,
                "--run", client], check=True)
disk = qedtest.Disk(size)
disk.write(b"x" * 99999, 7)
qedtest.check_image(path, disk)
END
