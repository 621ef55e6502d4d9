#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A loop in a chain is found by the identity of the files, not by their names.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import os
import qedimg, qedtest
os.chdir(qedtest.TMP)

def layer(path, name):
    qedimg.Image(1 << 20, backing=name).save(path)

def loop(path, image, name, again):
    t = qedtest.TMP
    qedtest.refused(f"{t}/{image}: backing file: {t}/{name}: "
                    f"is the file {t}/{again} again", "qed", path)

layer("self.qed", "self.qed")
loop("self.qed", "self.qed", "self.qed", "self.qed")
layer("one.qed", "two.qed")
layer("two.qed", "one.qed")
loop("one.qed", "two.qed", "one.qed", "one.qed")
layer("top.qed", "one.qed")
loop("top.qed", "two.qed", "one.qed", "one.qed")

os.symlink("by-link.qed", "link.qed")
layer("by-link.qed", "link.qed")
loop("by-link.qed", "by-link.qed", "link.qed", "by-link.qed")
loop("link.qed", "link.qed", "link.qed", "link.qed")
layer("hard.qed", "hard-link.qed")
os.link("hard.qed", "hard-link.qed")
loop("hard.qed", "hard.qed", "hard-link.qed", "hard.qed")
os.mkdir("dir")
layer("dots.qed", "dir/../dots.qed")
loop("dots.qed", "dots.qed", "dir/../dots.qed", "dots.qed")

# Also if it would be read as raw, or the user names it.
qedimg.Image(1 << 20, backing="raw.qed",
             features=qedimg.F_BACKING_FORMAT_NO_PROBE).save("raw.qed")
loop("raw.qed", "raw.qed", "raw.qed", "raw.qed")
qedimg.Image(1 << 20).save("plain.qed")
t = qedtest.TMP
for format in qedtest.some(["raw", "qed", "qcow2"], 2):
    qedtest.refused(f"{t}/plain.qed: backing file: {t}/plain.qed: is the file",
                    "qed", "plain.qed", "backing=plain.qed",
                    "backing-format=" + format)
END
