#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The JSON of qed-img info has the keys and values of qemu-img info.  In
# addition, format-specific has the fields of the QED header, and for an image
# with a backing file how much of the disk is still there.

source ./functions.sh nbd qemu

cd $d
truncate -s 1536k base.raw
qemu-img create -q -f qed plain.qed 10G
qemu-img create -q -f qed -o cluster_size=4k,table_size=8 small.qed 512
qemu-img create -q -f qed -b base.raw -F raw raw.qed
qemu-img create -q -f qed -b $d/plain.qed -F qed qed.qed 1234k
mkdir sub
qemu-img create -q -f qed -b ../plain.qed -F qed sub/up.qed
qemu-img create -q -f qed -o size=64T large.qed
cp plain.qed 'q"uo\te.qed'
"$PYTHON" - <<'END'
import json
import qedimg, qedtest

def compare(file, *args):
    out, _ = qedtest.qed_img("info", "--output=json", "--backing-dir=.",
                             *args, file)
    want = json.loads(qedtest.run("qemu-img", "info", "--output=json", *args,
                                  file))
    got = json.loads(out)
    for g, w in zip(*(([got], [want]) if isinstance(got, dict)
                      else (got, want)), strict=True):
        specific = g.pop("format-specific", None)
        assert g == w, (g, w)
        assert (specific is None) == (w["format"] == "raw")
        if specific and "backing-filename" in w:
            # Nothing is allocated in these images.  How large the backing
            # file is counts only if it is looked at.
            want_bytes = w["virtual-size"]
            if args:
                below = qedtest.run("qemu-img", "info", "--output=json",
                                    w["full-backing-filename"])
                want_bytes = min(want_bytes,
                                 json.loads(below)["virtual-size"])
            assert specific["data"].pop("bytes-in-backing") == want_bytes
        if specific:
            h = qedimg.Model(w["filename"]).header
            assert specific == {"type": "qed", "data": {
                "table-size": h["table_size"],
                "header-size": h["header_size"],
                "l1-offset": h["l1_table_offset"],
                "features": h["features"],
                "compat-features": h["compat_features"],
                "autoclear-features": h["autoclear_features"]}}, specific

for file in ("plain.qed", "small.qed", "raw.qed", "qed.qed", "sub/up.qed",
             "large.qed", 'q"uo\\te.qed', qedtest.TMP + "/sub/up.qed"):
    compare(file)
    compare(file, "--backing-chain")

# Here QEMU is wrong: it calls every QED image clean.
img = qedimg.Image(1 << 20, features=qedimg.F_NEED_CHECK,
                   autoclear_features=(1 << 64) - 1)
img.save("dirty.qed")
out, _ = qedtest.qed_img("info", "--output=json", "dirty.qed")
info = json.loads(out)
assert info["dirty-flag"] is True
assert info["format-specific"]["data"]["features"] == 2
assert info["format-specific"]["data"]["autoclear-features"] == (1 << 64) - 1

# A name that is not UTF-8 still gives valid JSON.
img.save(b"\xff\x01.qed")
out, _ = qedtest.qed_img("info", "--output=json", b"\xff\x01.qed")
assert json.loads(out)["filename"] == "\ufffd\x01.qed"
END
