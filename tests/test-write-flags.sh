#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A writable export offers zero, trim, flush and FUA.  With -r it offers none of
# them, and such requests fail.

source ./functions.sh nbd nbdinfo

"$PYTHON" - <<'END'
import json
import nbd, qedimg, qedtest

path = qedtest.TMP + "/f.qed"
for args, writable in (((), True), (("-r",), False)):
    qedimg.Image(20 << 20, 4096, 4).save(path)
    with qedtest.Server(*args, "qed", path) as s:
        h = s.connect()
        assert h.is_read_only() is not writable
        for can in (h.can_zero, h.can_fast_zero, h.can_trim):
            assert can() is writable, can
        for can in (h.can_multi_conn, h.can_cache):
            assert can() is True, can
        if writable:
            assert h.can_flush() is True
            assert h.can_fua() is True
        assert h.get_block_size(nbd.SIZE_MINIMUM) == 1
        assert h.get_block_size(nbd.SIZE_PREFERRED) == 4096
        assert h.get_block_size(nbd.SIZE_MAXIMUM) == 0xffffffff
        assert not h.is_rotational()

        calls = ((h.pwrite, b"x" * 5000, 1000),
                 (h.pwrite, b"y" * 3, 0, nbd.CMD_FLAG_FUA),
                 (h.zero, 5000, 3000),
                 (h.zero, 4096, 8192, nbd.CMD_FLAG_FUA),
                 (h.trim, 5000, 3000),
                 (h.trim, 4096, 8192, nbd.CMD_FLAG_FUA))
        for call in calls:
            if writable:
                call[0](*call[1:])
            else:
                qedtest.expect_error("EPERM", *call)
        if h.can_flush():
            h.flush()
        h.cache(1 << 20, 0)
        want = b"yyy" + bytes(997) + b"x" * 2000 if writable else bytes(3000)
        assert h.pread(3000, 0) == want

        [e] = json.loads(qedtest.run("nbdinfo", "--json", s.uri))["exports"]
        assert e["is_read_only"] is not writable, e

        # A request out of range is the client's error and changes nothing.
        if writable:
            end = h.get_size()
            for call in ((h.pwrite, b"x" * 2, end - 1), (h.zero, 2, end - 1),
                         (h.trim, 2, end - 1), (h.pwrite, b"x", 1 << 60)):
                try:
                    call[0](*call[1:])
                    raise AssertionError(call)
                except nbd.Error as ex:
                    assert ex.errno in ("ENOSPC", "EINVAL"), ex
            assert h.pread(4096, end - 4096) == bytes(4096)
END
