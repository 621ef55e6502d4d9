#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img map follows backing files by the same rules as the plugin, and takes
# their locks.  A message advises only options that qed-img has.

source ./functions.sh nbd qemu

cd $d
mkdir imgs other
truncate -s 1M other/base.raw
truncate -s 1M imgs/base.raw
"$PYTHON" - <<'END'
import qedimg
for name in ("base.raw", "../other/base.raw", "missing", "nbd://localhost/",
             "json:{}", "q.qcow2"):
    img = qedimg.Image(1 << 20, backing=name)
    img.data(1, b"x")
    img.save("imgs/" + name.translate({ord(c): "-" for c in "/:{}."}) + ".qed")
END
qemu-img create -q -f qcow2 imgs/q.qcow2 1M
qed-img map imgs/base-raw.qed

f=imgs/---other-base-raw.qed
fails 1 "$f: backing file: .*/other/base.raw, not beneath" qed-img map $f
grep ' add --backing-dir=/.*/other$' fails.log
test ! -s fails.out
qed-img map --backing-dir=imgs --backing-dir=other $f
qed-img map --backing-dir / $f
fails 1 'imgs/missing.qed: .*No such file.*qed-img rebase -u -b NAME' \
      qed-img map imgs/missing.qed
fails 1 'nbd://localhost/: an NBD URI is not followed.*qed-img rebase -u' \
      qed-img map imgs/nbd---localhost-.qed
fails 1 'never followed.*qed-img rebase -u' qed-img map imgs/json---.qed
fails 1 'magic of format qcow2: add --backing-format=qcow2, or --backing-form' \
      qed-img map imgs/q-qcow2.qed
fails 1 'No such file' qed-img map imgs/missing.qed
absent ' backing(-dir|-uri|-format)?=' fails.log
fails 1 '^qed-img: --backing-format=Raw: must be raw, qed, auto or the name' \
      qed-img map --backing-format=Raw imgs/base-raw.qed

# An image that another program writes is mapped only with -U.
start_qemu_nbd -f qed $PWD/imgs/base-raw.qed
fails 1 'imgs/base-raw.qed: locked.*, or add -U to read it anyway$' \
      qed-img map imgs/base-raw.qed
qed-img map -U imgs/base-raw.qed
qed-img map --force-share --output=json imgs/base-raw.qed
