#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With check=never an image marked NEED_CHECK is not opened for writing, even
# if it is sound.  One without the mark is.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedimg, qedtest

path = qedtest.TMP + "/c.qed"
def image(features=qedimg.F_NEED_CHECK):
    img = qedimg.Image(1 << 20, features=features)
    img.data(0)
    img.save(path)
    with open(path, "rb") as f:
        return f.read()

def contents():
    with open(path, "rb") as f:
        return f.read()

before = image()
with qedtest.Server("qed", path, "check=never") as s:
    for _ in range(2):
        qedtest.connection_refused(s, f"{path}: .*check")
assert contents() == before
with qedtest.Server("-r", "qed", path, "check=never") as s:
    h = s.connect()
    assert h.pread(100, 0) == before[-65536:][:100]
assert contents() == before

for args in ((), ("check=auto",)):
    image()
    with qedtest.Server("qed", path, *args) as s:
        s.connect().pwrite(b"x", 0)
    qedimg.References(path).check_clean()
image(features=0)
with qedtest.Server("qed", path, "check=never") as s:
    s.connect().pwrite(b"x" * 65536, 65536)
qedimg.References(path).check_clean()
END
for v in '' maybe true always; do
    refused 'check=' qed $d/c.qed check="$v"
done
