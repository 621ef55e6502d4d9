#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A reader ignores NEED_CHECK and unknown compat and autoclear bits.  In an
# image without a backing file it also ignores NO_PROBE and the fields of the
# backing file's name.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/f.qed"
ALL = (1 << 64) - 1
for fields in ({"compat_features": 1}, {"compat_features": ALL},
               {"autoclear_features": 1}, {"autoclear_features": ALL},
               {"features": qedimg.F_NEED_CHECK},
               {"features": qedimg.F_BACKING_FORMAT_NO_PROBE},
               {"features": qedimg.F_NEED_CHECK
                            | qedimg.F_BACKING_FORMAT_NO_PROBE,
                "compat_features": 1 << 63, "autoclear_features": 1 << 63},
               {"backing_filename_offset": 0xffffffff,
                "backing_filename_size": 0xffffffff}):
    img = qedimg.Image(1 << 20)
    img.header.update(fields)
    img.data(0)
    img.data(15)
    img.zero(3)
    img.save(path)
    before = open(path, "rb").read()
    qedtest.serve_and_check(path, "-r")
    assert open(path, "rb").read() == before
END
