#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A name in a header leads only to files beneath the directory of the image
# that has it, whatever the name looks like.  The message says which parameter
# would allow the file.

source ./functions.sh nbd nbdcopy

"$PYTHON" - <<'END'
import os, re
import qedimg, qedtest
os.chdir(qedtest.TMP)
t = qedtest.TMP
SECRET = b"PRIVATE" * 1000
for path in "imgs/sub", "imgs2", "other/imgs":
    os.makedirs(path)
for path in ("imgs/base.raw", "imgs/sub/base.raw", "imgs2/base.raw",
             "other/base.raw", "other/imgs/base.raw", "secret"):
    with open(path, "wb") as f:
        f.write(SECRET)

def image(name, path="imgs/x.qed", **kwargs):
    qedimg.Image(512, backing=name, **kwargs).save(path)

def allowed(path="imgs/x.qed", *args):
    out = qedtest.run("nbdkit", "-r", "-U", "-", "qed", path, *args, "--run",
                      'nbdcopy "$uri" -')
    assert out.startswith("PRIVATE"), out

def refused(file, path="imgs/x.qed", of=None, *args, allow=True):
    """FILE is where the name leads to."""
    log = qedtest.refused(f"^nbdkit: error: {t}/{of or path}: backing file: .*"
                          f"{re.escape(file)}.*"
                          f"backing-dir={re.escape(os.path.dirname(file))}",
                          "qed", path, *args)
    assert "PRIVATE" not in log, log
    # The parameter that the message names does it.
    if allow:
        allowed(path, *args, "backing-dir=" + os.path.dirname(file))
    return log

# Names that lead outside.
for name in qedtest.some([t + "/secret", "../secret", "sub/../../secret",
                          "./../secret", "//" + t + "/imgs/../secret"]):
    image(name)
    log = refused(t + "/secret")
    assert f"directory {t}/imgs:" in log, log
os.symlink("../secret", "imgs/link")
image("link")
refused(t + "/secret")
os.symlink("../other", "imgs/elsewhere")
image("elsewhere/base.raw")
refused(t + "/other/base.raw")
os.symlink("../../other/base.raw", "imgs/sub/link")
os.symlink("sub/link", "imgs/links")
image("links")
refused(t + "/other/base.raw")

# A directory whose name only starts, or ends, in the same way.
image("../imgs2/base.raw")
refused(t + "/imgs2/base.raw")
image("../other/imgs/base.raw")
refused(t + "/other/imgs/base.raw")

# Through links in /proc, and the files there.
image("/proc/self/root" + t + "/secret")
refused(t + "/secret")
image("/proc/self/environ")
log = qedtest.refused(f"{t}/imgs/x.qed: backing file: /proc/self/environ: is "
                      "the file /proc/[0-9]+/environ, not beneath",
                      "qed", "imgs/x.qed")
with open("secret") as f:
    for name in f"/proc/self/fd/{f.fileno()}", f"/dev/fd/{f.fileno()}":
        image(name)
        qedtest.refused("backing file: ", "qed", "imgs/x.qed")
        image(f"/proc/{os.getpid()}/fd/{f.fileno()}")
        refused(t + "/secret")

# A format from the user does not allow the file.
for format in "raw", "qed", "qcow2":
    image("../secret")
    refused(t + "/secret", "imgs/x.qed", None, "backing-format=" + format,
            allow=False)

# A path that leaves the directory and comes back is allowed.
for name in qedtest.some(["base.raw", t + "/imgs/base.raw", "sub/base.raw",
                          "../imgs/base.raw", "sub/../base.raw",
                          "elsewhere/../imgs/base.raw",
                          "/proc/self/root" + t + "/imgs/base.raw"]):
    image(name)
    allowed()

# The directory is the image's, not the current one.
image("../base.raw", "imgs/sub/y.qed")
refused(t + "/imgs/base.raw", "imgs/sub/y.qed")
os.chdir("imgs")
refused(t + "/imgs/base.raw", "sub/y.qed", "imgs/sub/y.qed")
os.chdir("..")

# Each image of a chain has its own.
image("sub/y.qed")
refused(t + "/imgs/base.raw", "imgs/x.qed", "imgs/sub/y.qed")
image(t + "/imgs/base.raw", "other/mid.qed")
image("../other/mid.qed")
refused(t + "/imgs/base.raw", "imgs/x.qed", f"imgs/../other/mid.qed",
        f"backing-dir={t}/other")

# A link outside the directory that leads back to an image allows no file
# there.  Nor does it if the directory's own name is a link.
image("base.raw", "imgs/mid.qed")
os.symlink("../imgs/mid.qed", "other/latest.qed")
image("../other/latest.qed")
refused(t + "/other/base.raw", "imgs/x.qed", "imgs/../other/latest.qed",
        allow=False)
# A link inside the directory allows the file, and so does backing-dir=.
os.unlink("other/latest.qed")
os.symlink("sub/low.qed", "imgs/latest.qed")
image("base.raw", "imgs/sub/low.qed")
image("latest.qed")
allowed()
os.symlink("../imgs/sub/low.qed", "other/latest.qed")
allowed("other/latest.qed")
image(t + "/imgs/sub/base.raw", "imgs/sub/low.qed")
allowed("other/latest.qed")

# These rules do not bind the user.
image("base.raw")
for name in "secret", "../" + os.path.basename(t) + "/secret", t + "/secret":
    allowed("imgs/x.qed", "backing=" + name)
# An image that the user names is bound by them.
image(t + "/secret", "imgs2/evil.qed")
refused(t + "/secret", "imgs/x.qed", "imgs2/evil.qed",
        "backing=imgs2/evil.qed")

# Long names fit into the message.
deep = "imgs2" + ("/" + "l" * 255) * 14
os.makedirs(deep)
with open(deep + "/base", "wb") as f:
    f.write(SECRET)
image("../" + deep + "/base")
refused(f"{t}/{deep}/base")

# A file which has been deleted, or never had a name.
with open("imgs/gone", "wb") as f:
    f.write(SECRET)
    f.flush()
    os.unlink("imgs/gone")
    image(f"/proc/{os.getpid()}/fd/{f.fileno()}")
    qedtest.refused(f"{t}/imgs/x.qed: backing file: .*deleted", "qed",
                    "imgs/x.qed", "backing-dir=/")
END
