#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# backing-format= takes raw, qed and auto, and refuses what is no name of a
# format.  (Formats that qemu-nbd reads: test-backing-nbd-*.sh.)

source ./functions.sh nbd nbdcopy

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
    # The header's bit does not apply to a file that the user names, even if
    # the header names the same file.
    serves("ins", f"backing={t}/base.qed")
    serves("QED", "backing=base.qed", "backing-format=raw")
    serves("ins", "backing=base.qed", "backing-format=qed")
    serves("jus", "backing=base.raw")
    serves("\0" * 3, "backing=none", "backing-format=qed")
    qedtest.refused(f"{t}/x.qed: backing file: {t}/base.raw: header: ",
                    "qed", "x.qed", "backing=base.raw", "backing-format=qed")

# The parameter is about the backing file of the image that is served, not of
# layers further down.
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
