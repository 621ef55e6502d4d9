#!/usr/bin/env bash
# nbdkit-qed
# Copyright (C) 2026 nbdkit-qed authors
#
# Redistribution and use in source and binary forms, with or without
# modification, are permitted provided that the following conditions are
# met:
#
# * Redistributions of source code must retain the above copyright
# notice, this list of conditions and the following disclaimer.
#
# * Redistributions in binary form must reproduce the above copyright
# notice, this list of conditions and the following disclaimer in the
# documentation and/or other materials provided with the distribution.
#
# * Neither the name of nbdkit-qed nor the names of its contributors may be
# used to endorse or promote products derived from this software without
# specific prior written permission.
#
# THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
# ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
# THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
# PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
# CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
# SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
# LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
# USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
# ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
# OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
# OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
# SUCH DAMAGE.

source ./functions.sh
set -e
set -x
requires_nbd
requires_program nbdinfo

# What the export advertises.  Preferred block size: a cluster, but within
# what NBD allows.
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
