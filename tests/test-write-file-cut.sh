#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Another program ignores the locks and cuts a file while it is written.  The
# next flush or allocation, or the end of nbdkit, reports it.  The image is not
# extended to its old length and marked clean as if nothing were lost.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import os
import qedimg, qedtest

path = qedtest.TMP + "/c.qed"
cs = 65536
for how in "in place", "regrow", "flush", "fua", "extend", "close":
    img = qedimg.Image(1 << 30)
    for c in range(6):
        img.data(c)
    img.save(path)
    with qedtest.Server("qed", path) as s:
        h = s.connect()
        if how not in ("in place", "regrow"):
            h.pwrite(b"new" * 1000, 9 * cs)
            h.flush()
            length = os.path.getsize(path) # grown ahead
        else:
            length = os.path.getsize(path)
        # Clusters 4 and 5, and what was written, are gone.
        cut = (img.end - 2) * cs
        os.truncate(path, cut)
        h.pwrite(b"old", 0)
        if how == "regrow":
            # A write to the last cluster would restore the old length.
            qedtest.expect_error("EIO", h.pwrite, b"x", 5 * cs + 1)
        elif how == "extend":
            # Extend the file beyond the space that was reserved.
            for i in range(1100):
                try:
                    h.pwrite(b"x", (16 + i) * cs)
                except qedtest.nbd.Error as e:
                    assert e.errno == "EIO", e
                    break
            else:
                raise AssertionError("it was extended")
        elif how == "fua":
            qedtest.expect_error("EIO", h.pwrite, b"old", 0,
                                 qedtest.nbd.CMD_FLAG_FUA)
        elif how != "close":
            qedtest.expect_error("EIO", h.flush)
        if how != "close":
            # The error is permanent.
            qedtest.expect_error("EIO", h.pwrite, b"x", 0)
            qedtest.expect_error("EIO", h.flush)
            assert h.pread(3, 0) == b"old"
    log = s.log()
    if how != "extend":
        assert (f"{path}: the file has been cut short while in use: it has "
                f"{cut} bytes, and should have {length}") in log, log
        assert os.path.getsize(path) == cut
    assert "cut short while in use" in log
    with open(path, "rb") as f:
        assert f.read(17)[16] == (0 if how in ("in place", "regrow") else 2)
    check = qedtest.subprocess.run(["qed-img", "check", path],
                                   capture_output=True, text=True)
    assert check.returncode == 2, check
END
