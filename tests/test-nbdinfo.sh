#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# nbdinfo shows the size of the disk, what the export can do, and its preferred
# block size, which is a cluster, within what NBD allows.

source ./functions.sh nbd nbdinfo

"$PYTHON" - <<'END'
import json, subprocess
import qedimg, qedtest

path = qedtest.TMP + "/i.qed"
for cs, preferred in ((4096, 4096), (8192, 8192), (65536, 65536),
                      (1 << 20, 1 << 20), (1 << 25, 1 << 25),
                      (1 << 26, 1 << 25)):
    img = qedimg.Image(5 << 20, cs, 2)
    img.data(0)
    img.save(path)
    with qedtest.Server("qed", path) as s:
        out = qedtest.run("nbdinfo", "--json", s.uri)
        print(out)
        [e] = json.loads(out)["exports"]
        assert e["export-size"] == 5 << 20
        assert e["is_read_only"] is False
        assert e["can_multi_conn"] is True
        assert e["can_cache"] is True
        assert e["can_flush"] is True
        assert e["can_fua"] is True
        assert e["can_zero"] is True
        assert e["can_fast_zero"] is True
        assert e["can_trim"] is True
        assert e["is_rotational"] is False
        assert e["contexts"] == ["base:allocation"]
        assert e["block_size_minimum"] == 1
        assert e["block_size_preferred"] == preferred
        # 2^32-1 means no limit.
        assert e.get("block_size_maximum", 0xffffffff) == 0xffffffff
        # Names the format and the geometry.
        d = e["description"]
        assert "QED" in d, d
        assert str(cs) in d or f"{cs >> 10}K" in d or f"{cs >> 20}M" in d, d
END
