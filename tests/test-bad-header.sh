#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Each header field is tested at and around its limits.  The image is accepted
# or refused.  A refusal's message names the file, the field, its value and the
# rule that it breaks.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import re
import qedimg, qedtest
from qedimg import Image

path = qedtest.TMP + "/h.qed"
K, M, G = 1 << 10, 1 << 20, 1 << 30
TOP = 1 << 64
CS = 65536

# (field, value, rule, geometry): the rule is a part of the message, or None if
# the image must be accepted.  The geometry sets more fields.
CASES = []

def case(field, value, rule, **geometry):
    CASES.append((field, value, rule, geometry))

POWER = "must be a power of 2 from"
for v in (0, 1, 511, 512, 2048, 3000, 4095, 4097, 6144, 65535, 65537,
          (64 * M) - 1, (64 * M) + 1, 128 * M, 1 << 31, 0xffffffff):
    case("cluster_size", v, POWER + " 4096 to 67108864")
for v in (0, 3, 5, 6, 7, 9, 12, 15, 17, 32, 64, 1 << 31, 0xffffffff):
    case("table_size", v, POWER + " 1 to 16")

HEADER = "must be from 1 to {} clusters with this cluster_size"
case("header_size", 0, HEADER.format(65535))
case("header_size", 65536, HEADER.format(65535))
case("header_size", 0xffffffff, HEADER.format(65535))
case("header_size", 1 << 20, HEADER.format(0xfffff), cluster_size=4096)
case("header_size", 64, HEADER.format(63), cluster_size=64 * M)
case("header_size", 2, None, l1_at=2)
case("header_size", 63, None, cluster_size=64 * M, l1_at=63)

for bit in (3, 4, 7, 8, 31, 32, 63):
    case("features", 1 << bit, "only 0x7 are known")
case("features", TOP - 1, "only 0x7 are known")
case("features", 0xc, "only 0x7 are known")
# An unknown feature is reported first, because it may change other rules.
case("features", 8, "only 0x7 are known", override={"table_size": 3})
case("features", 2, None)
case("features", 4, None)

MULTIPLE = "must be a multiple of cluster_size 65536"
for v in (1, 512, 4096, CS - 1, CS + 1, CS + 512, 3 * CS // 2, TOP - 1,
          TOP - 512):
    case("l1_table_offset", v, MULTIPLE)
AFTER = "must lie after the header clusters, which end at {}"
case("l1_table_offset", 0, AFTER.format(CS))
case("l1_table_offset", 0, AFTER.format(3 * CS), header_size=3)
case("l1_table_offset", CS, AFTER.format(3 * CS), header_size=3)
case("l1_table_offset", 2 * CS, AFTER.format(3 * CS), header_size=3)
INSIDE = "the L1 table of 262144 bytes must lie inside the file of {} bytes"
# The file has 1 + 4 + 4 clusters.
for v in (6, 7, 8, 9, 10, 1 << 16, 1 << 32, 1 << 47, (TOP // CS) - 1,
          (TOP // CS) - 4, (TOP // CS) - 5, (1 << 47) - 1, (1 << 47) - 4):
    case("l1_table_offset", v * CS, INSIDE.format(9 * CS))
case("l1_table_offset", 5 * CS, None)
case("l1_table_offset", 2 * CS, None)

SECTOR = "must be a multiple of 512"
for v in (1, 511, 513, M + 256, TOP - 1, (1 << 63) - 1, (1 << 63) + 1):
    case("image_size", v, SECTOR)
MOST = "must be at most {} with cluster_size {} and table_size {}"
for cs, ts in ((4096, 1), (4096, 16), (65536, 4), (M, 2), (64 * M, 1),
               (64 * M, 16)):
    most = qedimg.max_size(cs, ts)
    for v in (most + 512, 2 * most + 512, 1 << 63, TOP - 512):
        case("image_size", v, MOST.format(most, cs, ts),
             cluster_size=cs, table_size=ts)
    case("image_size", most, None, cluster_size=cs, table_size=ts)
    case("image_size", most - 512, None, cluster_size=cs, table_size=ts)
case("image_size", 0, None)
case("image_size", 512, None)

for field, value, rule, geometry in qedtest.some(CASES, 30):
    override = geometry.pop("override", {})
    img = Image(M, geometry.pop("cluster_size", CS), **geometry)
    img.alloc(4)
    img.header[field] = value
    img.header.update(override)
    img.save(path)
    if rule is None:
        print(field, value, "accepted")
        with qedtest.Server("qed", path) as s:
            h = s.connect()
            assert h.get_size() == img.header["image_size"]
            if h.get_size():
                assert not any(h.pread(512, h.get_size() - 512))
    else:
        print(field, value, rule)
        shown = f"0x{value:x}" if field == "features" else str(value)
        log = qedtest.refused(
            re.escape(f"error: {path}: header: {field} {shown}: ")
            + ".*" + re.escape(rule), "qed", path)
        # There is exactly one message.
        assert log.count("error: ") == 1, log
END
