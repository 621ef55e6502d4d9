#!/usr/bin/env bash
# nbdkit-qed
# Copyright (C) 2026 nbdkit-qed authors
#
# Redistribution and use in source and binary forms, with or without
# modification, are permitted provided that the following conditions are
# met:
#
# * Redistributions of source code must retain the above copyright
# notice, this list of conditions and the following disclaimer.
#
# * Redistributions in binary form must reproduce the above copyright
# notice, this list of conditions and the following disclaimer in the
# documentation and/or other materials provided with the distribution.
#
# * Neither the name of nbdkit-qed nor the names of its contributors may be
# used to endorse or promote products derived from this software without
# specific prior written permission.
#
# THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
# ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
# THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
# PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
# CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
# SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
# LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
# USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
# ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
# OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
# OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
# SUCH DAMAGE.

source ./functions.sh
set -e
set -x
requires_nbd

# Unknown compat and autoclear bits don't matter to a reader, neither does
# NEED_CHECK, and NO_PROBE means nothing without a backing file.  Nor do the
# fields of a backing file's name.
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
