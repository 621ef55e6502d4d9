#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# map --output=svg draws the disk and the image file.  A viewer of SVG shows
# data by layer, zeros, tables, leaks, a shared cluster and a damaged entry
# where they are, and the legends have their sizes.

source ./functions.sh nbd rsvg-convert

cd $d
"$PYTHON" - <<'END'
import svgmap
from qedimg import Image

MiB = 1 << 20
CS = 65536

# 4096 clusters, so that each is one cell of the disk.
base = Image(256 * MiB, CS, 1)
for c in range(1024):
    base.data(2048 + c, b"x")
base.save("base.qed")

# Each cluster of the file is two or more cells of it.
img = Image(256 * MiB, CS, 1, backing="base.qed")
for c in range(64):
    img.data(c, b"x")           # one piece of 4 MiB
leak = img.alloc(16)
short = img.data(2048, b"x")
img.data(4095, b"x", at=short + 2)
img.alloc(1)
img.data(100, b"x", at=short + 4)
img.entry(200, (short + 2) * CS)  # shared with the last cluster
img.entry(300, 12345)             # damaged
img.zero(301)
for c in range(1024, 1280):
    img.zero(c)
img.alloc(1000)
img.save("x.qed")

m = svgmap.draw("x.qed", status=1)
disk = 256 * MiB
size = svgmap.human

def row(n, whole):
    return size(n), svgmap.percent(n, whole)

want = {
    "data in x.qed": row(66 * CS, disk),
    "data in base.qed": row(1023 * CS, disk),
    "zeros": row(257 * CS, disk),
    "nothing": row((4096 - 66 - 1023 - 257 - 3) * CS, disk),
    "shared with another range": row(2 * CS, disk),
    "damaged": row(CS, disk),
}
assert m.legend("disk") == want, m.legend("disk")
whole = img.file_size()
want = {
    "header": row(CS, whole),
    "L1 and L2 tables": row(2 * CS, whole),
    "data in pieces of 1 MiB or more": row(64 * CS, whole),
    "data in shorter pieces": row(2 * CS, whole),
    "leaked": row((16 + 2 + 1000) * CS, whole),
    "shared": row(CS, whole),
    "damaged table entries": ("1",),
}
assert m.legend("file") == want, m.legend("file")

cells = m.cells("disk")
for c, want in ((0, "data in x.qed"), (63, "data in x.qed"), (64, None),
                (100, "data in x.qed"), (200, "shared with another range"),
                (300, "damaged"), (301, "zeros"), (1023, None), (1024, "zeros"),
                (1279, "zeros"), (1280, None), (2047, None),
                (2048, "data in x.qed"), (2049, "data in base.qed"),
                (3071, "data in base.qed"), (3072, None),
                (4095, "shared with another range")):
    assert cells[c] == (want, 2, None), (c, cells[c])

# The same in pixels.
WHITE, BLUE, GREEN = (255, 255, 255), (0, 0x72, 0xb2), (0, 0x9e, 0x73)
YELLOW, ORANGE = (0xf0, 0xe4, 0x42), (0xe6, 0x9f, 0)
VERMILLION = (0xd5, 0x5e, 0)
assert m.cell_pixels("disk", 10) == {BLUE}
assert m.cell_pixels("disk", 80) == {WHITE}
assert GREEN in m.cell_pixels("disk", 3000)
assert len(m.cell_pixels("disk", 3000)) > 1     # a pattern
assert YELLOW in m.cell_pixels("disk", 4095)
assert VERMILLION in m.cell_pixels("disk", 300)
assert WHITE in m.cell_pixels("disk", 301)      # a halo
assert WHITE not in m.cell_pixels("disk", 1100)
assert {(0xee,) * 3} < m.cell_pixels("disk", 1200)

def file_cell(cluster):
    return (2 * cluster + 1) * svgmap.COLUMNS * svgmap.ROWS // (2 * whole // CS)

assert m.cell_pixels("file", 0) == {(0, 0, 0)}
assert m.cell_pixels("file", file_cell(40)) == {BLUE}
assert ORANGE in m.cell_pixels("file", file_cell(leak + 8))
assert YELLOW in m.cell_pixels("file", file_cell(short + 2))
damaged = [i for i, c in enumerate(m.cells("file"))
           if c[0] == "damaged table entries"]
entry = img.tables[0] * CS + 8 * 300
assert damaged == [entry * 4096 // whole], damaged
assert VERMILLION in m.cell_pixels("file", damaged[0])

# In the margin the rows with damage and with sharing are pointed at.
x, y = m.frame("disk")
for r in range(svgmap.ROWS):
    at = y + r * svgmap.CELL + svgmap.CELL // 2
    right = x + svgmap.COLUMNS * svgmap.CELL
    assert (m.pixel(right + 11, at) == VERMILLION) == (r == 300 // 128), r
    assert (m.pixel(right + 23, at) == YELLOW) == (r in (200 // 128, 31)), r

# The mapping: the 64 clusters at the start, and nothing below the last data.
x, y = m.frame("mapping")
assert m.pixel(x + 2, y + 2) == BLUE
assert m.pixel(x + 520, y + 200) == WHITE

text = m.text()
for want in ("x.qed", "QED image: disk 256 MiB, file 68 MiB, clusters of "
             "64 KiB, tables of 1 cluster", "1 damaged table entry, 64 KiB of "
             "the disk can't be read, 64 KiB of the file shared: see qed-img "
             "check", "data in 3 pieces of 1.38 MiB on average, 3.0% of it in "
             "pieces of less than 1 MiB", "93.6% of the file"):
    assert want in text, (want, text)
assert "only" not in text

# A range of the disk.
m = svgmap.draw("-s", "128M", "-l", "64M", "x.qed")
assert "only 64 MiB from offset 0x8000000 on" in m.text()
assert m.legend("disk") == {"data in x.qed": row(CS, 64 * MiB),
                            "data in base.qed": row(1023 * CS, 64 * MiB)}
cells = m.cells("disk")
assert [c[0] for c in cells[:5]] == 4 * ["data in x.qed"] + ["data in base.qed"]
assert m.legend("file")["damaged table entries"] == ("1",)
# An empty one, and one with fewer bytes than cells.
m = svgmap.draw("-s", "1G", "x.qed")
assert m.legend("disk") == {} and "The range is empty." in m.text()
m = svgmap.draw("-s", "128M", "-l", "10", "x.qed")
assert m.legend("disk") == {"data in x.qed": ("10 B", "100.0%")}
assert m.cells("disk") == 4096 * [("data in x.qed", 2, None)]
# Data of two tables that is in order in the file but not on the disk.
img = Image(256 * MiB, 4096, 1)
img.table(1), img.table(0)
img.data(img.n)
img.data(0)
img.save("order.qed")
assert "data in 2 pieces of 4 KiB on average" in svgmap.draw("order.qed").text()
img = Image(MiB)
img.data(3), img.data(5)
img.save("piece.qed")
m = svgmap.draw("piece.qed")
assert "Fragmentation\nnone: data in one piece of 128 KiB\n" in m.text()
# Nothing is wrong, nothing is there.
Image(MiB).save("empty.qed")
m = svgmap.draw("empty.qed")
assert "none found\nLeaks\nnone\n" in m.text(), m.text()
assert "there is no data in this file" in m.text()
m.render()
END

# No half of a drawing, and clear errors.
fails 1 "qed-img: map: --totals: can't be used with --output=svg, which has \
the sums anyway: see qed-img map --help" \
      qed-img map --totals --output=svg x.qed
fails 1 "qed-img: map: --output: 'png': must be human, json or svg" \
      qed-img map --output=png x.qed
head -c 200 x.qed >cut.qed
fails 1 'cut.qed' qed-img map --output=svg cut.qed
test ! -s fails.out
mv base.qed gone
fails 1 'base.qed' qed-img map --output=svg x.qed
test ! -s fails.out
