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

# Loops are found by which file it is, not by its name.
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
