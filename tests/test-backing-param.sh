#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# backing= replaces the backing file that the header names.

source ./functions.sh nbd nbdcopy

"$PYTHON" - <<'END'
import os
import qedimg, qedtest
os.chdir(qedtest.TMP)
t = qedtest.TMP
for path in "imgs", "other":
    os.mkdir(path)
for path in ("imgs/base.raw", "base.raw", "other/base.raw", "none", "a:b",
             "json:{}", "nbd:x", "file:x"):
    with open(path, "wb") as f:
        f.write(path.encode())

# An image with a backing file, one whose backing file is missing, one with a
# URI as its backing file, and one without.
images = ["imgs/x.qed", "imgs/missing.qed", "imgs/evil.qed", "imgs/plain.qed"]
for path, name in zip(images, ("base.raw", "missing", "nbd://x", None)):
    qedimg.Image(512, backing=name).save(path)

def serves(want, image, *args, cwd="."):
    image = os.path.abspath(image)
    os.chdir(cwd)
    out = qedtest.run("nbdkit", "-r", "-U", "-", "qed", image, *args, "--run",
                      'nbdcopy "$uri" -')
    os.chdir(t)
    assert out.strip("\0") == want, (image, args, out)

serves("imgs/base.raw", "imgs/x.qed")
serves("", "imgs/plain.qed")
for image in qedtest.some(images, 1):
    # Relative to the current directory.
    serves("base.raw", image, "backing=base.raw")
    serves("other/base.raw", image, "backing=base.raw", cwd="other")
    serves("base.raw", image, "backing=../base.raw", cwd="other")
    serves("other/base.raw", image, f"backing={t}/other/base.raw")
    # backing=none gives zeros.  A file may be called "none", too.
    serves("", image, "backing=none")
    serves("none", image, "backing=./none")
    serves("none", image, f"backing={t}/none")
for name in "a:b", "json:{}", "nbd:x", "file:x":
    serves(name, "imgs/x.qed", "backing=" + name)
# The last one counts.
serves("other/base.raw", "imgs/x.qed", "backing=base.raw",
       "backing=other/base.raw")
serves("", "imgs/x.qed", "backing=base.raw", "backing=none")
serves("base.raw", "imgs/x.qed", "backing=none", "backing=base.raw")

# The chain goes on from there.
qedimg.Image(512, backing="base.raw").save("other/mid.qed")
serves("other/base.raw", "imgs/x.qed", "backing=other/mid.qed")
serves("other/base.raw", "imgs/x.qed", "backing=other/mid.qed",
       "backing-format=qed")
qedimg.Image(512, backing="missing").save("other/mid.qed")
qedtest.refused(f"{t}/other/mid.qed: backing file: {t}/other/missing: .*No such",
                "qed", "imgs/x.qed", "backing=other/mid.qed")

for value, what in (("missing", f"{t}/missing: .*No such file"),
                    ("other", f"{t}/other: .*directory"),
                    ("", "directory|empty"), ("nbd", f"{t}/nbd: .*No such"),
                    ("http://localhost/x", "no such file, and of URIs only"),
                    ("nbd+ssh://x/", "no such file, and of URIs only"),
                    ("None", f"{t}/None: .*No such file")):
    for image in qedtest.some(images, 1):
        qedtest.refused(f"error: .*({what})", "qed", image, "backing=" + value)
END

# In the background too.
cd $d/other
nbdkit -U $d/sock -P $d/pid -r qed ../imgs/x.qed backing=base.raw
wait_for 30 test -s $d/pid
pid=$(cat $d/pid)
cleanup_fn eval "kill $pid 2>/dev/null || :"
nbdsh -u "nbd+unix:///?socket=$d/sock" -c 'assert h.pread (5, 0) == b"other"'
kill $pid
wait_for 30 gone $pid
