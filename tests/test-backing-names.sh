#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# At each level a relative name starts at the directory in the name of the
# image whose header has it.  A name may have any characters.

source ./functions.sh nbd qemu nbdcopy

"$PYTHON" - <<'END'
import os
import qedimg, qedtest

os.makedirs(qedtest.TMP + "/dir/sub/deep")
os.chdir(qedtest.TMP + "/dir")
os.symlink("sub/deep", "link")
long = "n" * 255

def serves(name, base, want, image="x.qed"):
    img = qedimg.Image(512, 65536, 1, backing=name,
                       features=qedimg.F_BACKING_FORMAT_NO_PROBE)
    img.save(image)
    with open(base, "wb") as f:
        f.write(want)
    # From this directory, and from another one.
    for cwd in (".", "/"):
        args = ["nbdkit", "-r", "-U", "-", "qed",
                "file=" + (os.path.abspath(image) if cwd == "/" else image),
                "--run", 'nbdcopy "$uri" -']
        here = os.getcwd()
        os.chdir(cwd)
        got = qedtest.run(*args).strip("\0").encode()
        os.chdir(here)
        assert got == want, (name, got)
    os.unlink(image)
    os.unlink(base)

names = ["base.raw", "with space", " ", "a:b", "nbd:localhost:1", "nbd:",
         "json:{}", "file:base.raw", "fat:rw:.", "none", "raw", "-r", "--",
         "a=b", "a,b", "a,,b", "%s%n", "$(x)", "'\"\\", "*", "~", "\n",
         "\u00e4\u6f22\U0001f600", b"\xff\xfe", long, "sub/base.raw",
         "./base.raw", "sub/../base.raw", "sub/deep/../../base.raw",
         "../dir/base.raw", "link/base.raw", "link/../x", "sub//deep/x",
         qedtest.TMP + "/dir/base.raw", qedtest.TMP + "/dir/sub/a:b",
         qedtest.TMP + "/dir/link/../deep/../../base.raw"]
for i, name in enumerate(qedtest.some(names, 15)):
    serves(os.fsencode(name), os.fsencode(name), b"%020d" % i)

# A URI's path is a path.
os.makedirs("nbd:/localhost")
serves("nbd://localhost/x", "nbd:/localhost/x", b"u" * 20)

# A relative name starts at the directory as it is named, even through a
# symbolic link.  For a link to the image it starts at the link's directory, as
# in QEMU.
serves("base.raw", "sub/deep/base.raw", b"l" * 20, "link/x.qed")
os.symlink("sub/real.qed", "alias.qed")
serves("base.raw", "base.raw", b"a" * 20, "alias.qed")

# An image in a subdirectory, an absolute name, and a name that leads back.
def layer(path, name):
    qedimg.Image(1 << 20, backing=name).save(path)
layer("top.qed", "sub/mid.qed")
layer("sub/mid.qed", qedtest.TMP + "/dir/sub/deep/low.qed")
layer("sub/deep/low.qed", "base.raw")
with open("sub/deep/base.raw", "wb") as f:
    f.write(os.urandom(1 << 20))
# A link to an image: names start at the link.
layer("sub/over-link.qed", "low-link.qed")
os.symlink("deep/other.qed", "sub/low-link.qed")
layer("sub/deep/other.qed", "deep/base.raw")
END
same_as_qemu $d/dir/top.qed
same_as_qemu $d/dir/sub/over-link.qed
cd $d/dir
same_as_qemu top.qed
cd sub
same_as_qemu ../top.qed
