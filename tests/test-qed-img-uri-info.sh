#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause
# info of an NBD URI prints what qemu-img does: no size on the disk, and no
# directory for a relative name of a backing file.  A file of such a name has to
# be written ./nbd://...

source ./functions.sh nbd libnbd qemu

cd $d
truncate -s 3M base.raw
qed-img create -q -b $d/base.raw -F raw absolute.qed
qed-img create -q -b base.raw -F raw relative.qed
qed-img create -q -o cluster_size=4k plain.qed 10M
qed-img create -q uri.qed 10M
qed-img rebase -u -b nbd://localhost:1/x -F raw uri.qed
for i in absolute relative plain uri; do
    start_nbdkit file $d/$i.qed
    export uri
    ends 0 qed-img info "$uri"
    grep -v -e '^ ' -e '^Format specific' ends.out >got
    # QEMU writes the URI in its own way.
    qemu-img info "$uri" | sed "s|^image: .*|image: $uri|" | diff got -
    "$PYTHON" - <<'END'
import json, os
import qedtest
uri = os.environ["uri"]
out, _ = qedtest.qed_img("info", "--output=json", uri)
got = json.loads(out)
want = json.loads(qedtest.run("qemu-img", "info", "--output=json", uri))
want["filename"] = uri
del got["format-specific"]
assert got == want, (got, want)
END
    case $i in
        absolute)
            fails 1 "no directory for such files: .* add --backing-dir=$d\$" \
                  qed-img info --backing-chain "$uri"
            qed-img info --backing-chain --backing-dir=$d "$uri" |
                grep -x "image: $d/base.raw";;
        relative)
            fails 1 'file: base.raw: is relative to the directory of the image, and an export has none: qed-img rebase -u' \
                  qed-img info --backing-chain "$uri";;
        uri)
            fails 1 'nbd://localhost:1/x: an NBD URI is not followed' \
                  qed-img info --backing-chain "$uri";;
    esac
    stop_nbdkit
done

# Files whose names look like a URI.
mkdir -p nbd:/localhost:1
cp plain.qed nbd:/localhost:1/x
qed-img info ./nbd://localhost:1/x | grep -x 'image: ./nbd://localhost:1/x'
fails 1 'nbd://localhost:1/x: .*onnect' qed-img info nbd://localhost:1/x
# A header names files only, also one in the current directory.
qed-img info --backing-chain uri.qed | grep -x 'image: ./nbd://localhost:1/x'
