#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# backing-dir= allows the backing files named in headers to lie in another
# directory.

source ./functions.sh nbd nbdcopy

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

# With several directories the image's own stays allowed.
image("../b/base.raw")
refused("backing-dir=a", "backing-dir=ab")
allowed("b", "backing-dir=a", "backing-dir=ab", "backing-dir=b")
allowed("b", "backing-dir=b", "backing-dir=b", "backing-dir=a")
allowed("a b", "backing-dir=a b", "backing=a b/base.raw")
image("base.raw")
allowed("imgs", "backing-dir=b")

# The place of the file counts, not that of a link to it.
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

# The directories are opened in the foreground, so a relative name still means
# the same in the background.
cd $d
nbdkit -U $d/sock -P $d/pid -r qed imgs/x.qed backing-dir=ab backing-dir=./b
wait_for 30 test -s $d/pid
pid=$(cat $d/pid)
cleanup_fn eval "kill $pid 2>/dev/null || :"
nbdsh -u "nbd+unix:///?socket=$d/sock" -c 'assert h.pread (2, 0) == b"b\0"'
kill $pid
wait_for 30 gone $pid
