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

# backing-dir=: where else files may lie that headers name.
"$PYTHON" - <<'END'
import os, re
import qedimg, qedtest
os.chdir(qedtest.TMP)
t = qedtest.TMP
for path in "imgs", "a/sub", "ab", "b", "a b":
    os.makedirs(path)
    with open(path + "/base.raw", "wb") as f:
        f.write(path.encode())
os.symlink("a", "link")
os.symlink("b/base.raw", "imgs/link")

def image(name, path="imgs/x.qed"):
    qedimg.Image(512, backing=name).save(path)

def allowed(want, *args, cwd="."):
    os.chdir(cwd)
    out = qedtest.run("nbdkit", "-r", "-U", "-", "qed", t + "/imgs/x.qed",
                      *args, "--run", 'nbdcopy "$uri" -')
    os.chdir(t)
    assert out.strip("\0") == want, (args, out)

def refused(*args):
    qedtest.refused(f"{t}/imgs/x.qed: backing file: .*backing-dir={t}",
                    "qed", "imgs/x.qed", *args)

image("../a/sub/base.raw")
for d in qedtest.some(["a", "a/", "a/.", "./a", "a/sub", "a/sub/..", "link",
                       "link/sub", ".", "..", "/", t, t + "/a", t + "/link"],
                      6):
    allowed("a/sub", "backing-dir=" + d)
allowed("a/sub", "backing-dir=.", cwd="a")
allowed("a/sub", "backing-dir=../a", cwd="b")
for d in "b", "ab", "imgs", "a b", t + "/ab":
    refused("backing-dir=" + d)
image("../ab/base.raw")
refused("backing-dir=a")
allowed("ab", "backing-dir=ab")

# Several; the image's own directory stays allowed.
image("../b/base.raw")
refused("backing-dir=a", "backing-dir=ab")
allowed("b", "backing-dir=a", "backing-dir=ab", "backing-dir=b")
allowed("b", "backing-dir=b", "backing-dir=b", "backing-dir=a")
allowed("a b", "backing-dir=a b", "backing=a b/base.raw")
image("base.raw")
allowed("imgs", "backing-dir=b")

# The file decides.
image("../link/sub/base.raw")
allowed("a/sub", "backing-dir=a")
os.symlink("../b/base.raw", "a/link")
image("../a/link")
refused("backing-dir=a")
allowed("b", "backing-dir=b")

# For all images of the chain, but not for other things.
image("../b/base.raw", "ab/mid.qed")
image("../ab/mid.qed")
refused("backing-dir=b")
qedtest.refused(f"{t}/imgs/../ab/mid.qed: backing file: .*backing-dir={t}/b",
                "qed", "imgs/x.qed", "backing-dir=ab")
allowed("b", "backing-dir=ab", "backing-dir=b")
allowed("b", "backing-dir=/")

# Values that are wrong.
for d, what in (("missing", "No such file"), ("", ""),
                ("imgs/x.qed", "must be a directory"),
                ("a/sub/base.raw", "must be a directory"),
                ("/dev/null", "must be a directory"),
                ("a/sub/base.raw/x", "Not a directory")):
    qedtest.refused(f"error: .*{what}", "qed", "imgs/x.qed",
                    "backing-dir=" + d)
END

# They are looked at in the foreground, and mean the same afterwards.
cd $d
nbdkit -U $d/sock -P $d/pid -r qed imgs/x.qed backing-dir=ab backing-dir=./b
wait_for 30 test -s $d/pid
pid=$(cat $d/pid)
cleanup_fn eval "kill $pid 2>/dev/null || :"
nbdsh -u "nbd+unix:///?socket=$d/sock" -c 'assert h.pread (2, 0) == b"b\0"'
kill $pid
wait_for 30 gone $pid
