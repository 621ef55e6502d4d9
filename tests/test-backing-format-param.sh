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

# backing-format=raw, qed, auto, and what is refused.  (Formats that qemu-nbd
# reads: test-backing-nbd-*.sh.)
"$PYTHON" - <<'END'
import os
import qedimg, qedtest
os.chdir(qedtest.TMP)
t = qedtest.TMP
base = qedimg.Image(512)
base.data(0, b"inside")
base.save("base.qed")
with open("base.raw", "wb") as f:
    f.write(b"just raw")
NO_PROBE = qedimg.F_BACKING_FORMAT_NO_PROBE

def serves(want, *args):
    out = qedtest.run("nbdkit", "-r", "-U", "-", "qed", "x.qed", *args,
                      "--run", 'nbdcopy "$uri" -')
    assert out[:3] == want, (args, out)

for features in 0, NO_PROBE:
    qedimg.Image(512, backing="base.qed", features=features).save("x.qed")
    serves("QED" if features else "ins")
    serves("QED" if features else "ins", "backing-format=auto")
    serves("ins", "backing-format=qed")
    serves("QED", "backing-format=raw")
    # The last one counts.
    serves("QED", "backing-format=qed", "backing-format=raw")
    # The header's bit isn't for a file that the user names, though it be the
    # same.
    serves("ins", f"backing={t}/base.qed")
    serves("QED", "backing=base.qed", "backing-format=raw")
    serves("ins", "backing=base.qed", "backing-format=qed")
    serves("jus", "backing=base.raw")
    serves("\0" * 3, "backing=none", "backing-format=qed")
    qedtest.refused(f"{t}/x.qed: backing file: {t}/base.raw: header: ",
                    "qed", "x.qed", "backing=base.raw", "backing-format=qed")

# It's for the image that is served, not for those below it.
qedimg.Image(512, backing="base.qed", features=NO_PROBE).save("mid.qed")
qedimg.Image(512, backing="mid.qed").save("x.qed")
serves("QED", "backing-format=qed")

for value in qedtest.some(["", " ", "-", "_x", "RAW", "Qed", "qcow2 ",
                           "qcow2,file=x", "../qcow2", "a=b", "a:b", "x\ny",
                           "\u00e4"], 4):
    qedtest.refused("error: backing-format=.*must be raw, qed, auto or", "qed",
                    "x.qed", "backing-format=" + value)

# A server exports raw disks.
for value in "qed", "qcow2":
    qedtest.refused(f"{t}/x.qed: backing file: nbd://localhost/: "
                    f"backing-format={value}: .*raw", "qed", "x.qed",
                    "backing=nbd://localhost/", "backing-format=" + value)
END
