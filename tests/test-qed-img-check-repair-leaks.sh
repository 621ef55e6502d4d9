#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# After -r leaks the file is as short as its content, which has not changed.  A
# sound image is not touched.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import json, os
import qedcheck, qedimg, qedtest
from qedtest import some

path = qedtest.TMP + "/r.qed"
for seed in some(range(40)):
    print("seed", seed)
    qedcheck.random_image(seed, damages=False).save(path)
    c = qedcheck.Check(path)
    before = qedcheck.content(path)
    out, err, *_ = qedcheck.check(path, "-r", "leaks")
    assert not err, err
    assert (f"\n    {c.leaks} leaked clusters\n    0 corruptions\n" in out) \
        == (c.leaks > 0), out
    assert out.count("No errors were found on the image.") == 1
    if c.model.file_size != c.end:
        assert f"The file had {c.model.file_size} bytes and has " in out, out
    if c.model.header["features"] & qedimg.F_NEED_CHECK:
        assert "marked as closed cleanly now" in out, out
    qedcheck.expect_clean(path)
    assert qedcheck.content(path) == before
    with open(path, "rb") as f:
        now = f.read()
    state = os.stat(path)
    out, err, *_ = qedcheck.check(path, "-r", "leaks")
    assert "repaired" not in out and "The file had" not in out, out
    with open(path, "rb") as f:
        assert f.read() == now
    assert os.stat(path).st_mtime_ns == state.st_mtime_ns
    c.close()

# All of the space that is given back counts, in the JSON, too; and a server
# finds the same disk.
for what in ("leaks", "all"):
    img = qedimg.Image(5 << 20, 4096, 2)
    for k in range(200):
        img.data(3 * k % 200)
        img.alloc(k % 3)
    img.save(path)
    disk = qedtest.Disk(img.size)
    for k in range(200):
        disk.write(qedimg.pattern(0, k, 4096), k * 4096)
    leaks = qedcheck.Check(path).leaks
    assert leaks > 100
    out, err, *_ = qedcheck.check(path, "--output=json", "-r", what)
    assert not err, err
    assert json.loads(out) == qedcheck.Check(path).json(
        path, **{"leaks-fixed": leaks}), out
    qedcheck.expect_clean(path)
    with qedtest.Server("qed", path) as s:
        qedtest.check_disk(s.connect(), disk)
END
