#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# map --output=svg draws an image on an NBD export, whose end behind the image
# is not used.  An image that is being written is drawn with -U.

source ./functions.sh nbd libnbd

cd $d
"$PYTHON" - <<'END'
import os
import qedtest, svgmap
from qedimg import Image
MiB, CS = 1 << 20, 65536

img = Image(64 * MiB)
for c in range(32):
    img.data(c, b"x")
img.alloc(3)
img.data(40)
img.save("x.qed")
image = img.file_size()
with open("x.qed", "rb") as f, open("x.raw", "wb") as to:
    to.write(f.read())
    to.write(os.urandom(4 * MiB))
want = svgmap.draw("x.qed")
assert "not used" not in want.legend("file")

with qedtest.Server("file", qedtest.TMP + "/x.raw") as s:
    m = svgmap.draw(s.uri)
    amounts = {k: v[0] for k, v in m.legend("file").items()}
    assert amounts.pop("not used") == "4 MiB"
    assert amounts == {k: v[0] for k, v in want.legend("file").items()}
    edge = -(-image * 4096 // (image + 4 * MiB))
    cells = m.cells("file")
    assert cells[edge:] == (4096 - edge) * [(None, 2, None)]
    assert cells[edge - 2] == ("data in shorter pieces", 2, None)
    assert [c[0] is None for c in m.cells("disk")] == \
        [c[0] is None for c in want.cells("disk")]

with qedtest.Server("qed", "file=x.qed") as s:
    h = s.connect()
    h.pwrite(b"y" * MiB, 50 * MiB)
    _, err = qedtest.qed_img("map", "--output=svg", "x.qed", status=1)
    assert "or add -U to read it anyway" in err, err
    m = svgmap.draw("-U", "x.qed")
    assert "; in use, or not closed properly" in m.text(), m.text()
    assert m.cells("disk")[50 * 64 + 10][0] == "data in x.qed"
END
