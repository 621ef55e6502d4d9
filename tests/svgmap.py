# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

"""What a drawing of qed-img map says, as XML and as pixels.

    m = svgmap.draw("x.qed")
    m.legend("disk")    # {"zeros": ("1 MiB", "12.5%"), ...}
    m.cells("disk")     # [(look, level, foot), ...], looks named by the legend
    m.pixel(100, 200)   # (r, g, b), drawn by rsvg-convert

Only Python's standard library is used."""

import os
import re
import shlex
import struct
import subprocess
import xml.etree.ElementTree as ET
import zlib

SVG = "{http://www.w3.org/2000/svg}"
COLUMNS, ROWS, CELL = 128, 32, 8
NONE = None                     # the look of what isn't drawn

# What is after that in a label is a name, or an explanation.
LABEL = re.compile("^(data in (?=pieces|shorter|the layers).*|data in .*|"
                   "[^:,]*)")


class Drawing:
    """A drawing, from its bytes."""

    def __init__(self, svg):
        self.svg = svg
        self.root = ET.fromstring(svg)
        assert self.root.tag == SVG + "svg"
        self._pixels = None

    def text(self):
        """All text that is shown."""
        return "\n".join("".join(e.itertext())
                         for e in self.root.iter(SVG + "text"))

    def group(self, name):
        """The element of a picture and its legend: disk, file, mapping."""
        return next(e for e in self.root.iter(SVG + "g")
                    if e.get("id") == name)

    def _rows(self, name):
        for row in self.group(name).iter(SVG + "g"):
            texts = ["".join(e.itertext()) for e in row.iter(SVG + "text")]
            if row.get("id") is None:
                yield LABEL.match(texts[-1])[0], texts[:-1], row

    def legend(self, name):
        """{label: (amount, per cent)} or {label: (amount,)}."""
        return {label: tuple(texts) for label, texts, _ in self._rows(name)}

    def frame(self, name):
        """The place of the first cell of a picture."""
        f = next(e for e in self.group(name).iter(SVG + "rect")
                 if e.get("class") == "f")
        assert int(f.get("width")) == COLUMNS * CELL + 2
        return int(f.get("x")) + 1, int(f.get("y")) + 1

    def cells(self, name):
        """(look, level, foot) of each cell of the picture."""
        looks = {row.find(SVG + "path").get("fill"): label
                 for label, _, row in self._rows(name)}
        x0, y0 = self.frame(name)
        cells = [[NONE, 2, NONE] for _ in range(COLUMNS * ROWS)]
        for e in self.group(name).findall(SVG + "path"):
            d = e.get("d")
            if "l" in d or e.get("fill") is None:
                continue                        # pointers, halos
            for x, y, w, h in rectangles(d):
                if not y0 <= y < y0 + ROWS * CELL:
                    continue                    # swatches
                foot = h == 3
                assert (x - x0) % CELL == 0 and w % CELL == 0
                assert (y - y0) % CELL == (5 if foot else 0), (x, y)
                for r in range((y - y0) // CELL, -(-(y + h - y0) // CELL)):
                    for c in range((x - x0) // CELL, (x + w - x0) // CELL):
                        cell = cells[r * COLUMNS + c]
                        look = looks[e.get("fill")]
                        if foot:
                            assert cell[2] is NONE
                            cell[2] = look
                            continue
                        assert cell[0] is NONE
                        cell[0] = look
                        cell[1] = {".3": 0, ".6": 1, None: 2}[e.get("opacity")]
        return [tuple(c) for c in cells]

    def render(self):
        """It as a PNG, which a program that shows SVG makes."""
        return subprocess.run(["rsvg-convert", "--format=png"], check=True,
                              input=self.svg, stdout=subprocess.PIPE).stdout

    def pixel(self, x, y):
        """The colour there.  The first call takes a second or two."""
        if self._pixels is None:
            self._pixels = png(self.render())
        return self._pixels[y][x]

    def cell_pixels(self, name, i):
        """The colours in cell I of a picture."""
        x0, y0 = self.frame(name)
        x0 += i % COLUMNS * CELL
        y0 += i // COLUMNS * CELL
        return {self.pixel(x, y) for x in range(x0, x0 + CELL)
                for y in range(y0, y0 + CELL)}


def rectangles(d):
    """(x, y, width, height) of the rectangles of a path."""
    x = y = 0
    path = re.compile(r"([Mm])(-?\d+) (-?\d+)h(\d+)v(\d+)h-(\d+)z")
    at = 0
    while at < len(d):
        m = path.match(d, at)
        assert m and m[4] == m[6], d[at:at + 40]
        x, y = ((int(m[2]), int(m[3])) if m[1] == "M" else
                (x + int(m[2]), y + int(m[3])))
        yield x, y, int(m[4]), int(m[5])
        at = m.end()


def png(data):
    """The rows of an image, as lists of (r, g, b)."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, idat = 8, b""
    while at < len(data):
        n, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8:at + 8 + n]
        if kind == b"IHDR":
            width, height, bits, colour, _, _, interlace = \
                struct.unpack(">IIBBBBB", body)
            assert bits == 8 and colour in (2, 6) and interlace == 0, body
        elif kind == b"IDAT":
            idat += body
        at += n + 12
    raw, bpp = zlib.decompress(idat), 3 if colour == 2 else 4
    stride = bpp * width
    rows, above = [], bytes(stride)
    for y in range(height):
        row = unfilter(raw[y * (stride + 1):(y + 1) * (stride + 1)], above, bpp)
        rows.append(list(zip(row[::bpp], row[1::bpp], row[2::bpp])))
        above = row
    return rows


def unfilter(line, above, bpp):
    """The bytes of a row of a PNG.  LINE begins with its filter."""
    kind, row = line[0], bytearray(line[1:])
    for i in range(len(row) if kind else 0):
        a = row[i - bpp] if i >= bpp else 0
        b, c = above[i], above[i - bpp] if i >= bpp else 0
        if kind == 4:
            p = a + b - c
            pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
            add = a if pa <= pb and pa <= pc else b if pb <= pc else c
        else:
            add = (0, a, b, (a + b) // 2)[kind]
        row[i] = (row[i] + add) & 255
    return row


def draw(*args, status=0):
    """The drawing that qed-img map ARGS prints; it must exit with STATUS."""
    p = subprocess.run([*shlex.split(os.environ["QED_IMG"]), "map",
                        "--output=svg", *args], stdin=subprocess.DEVNULL,
                       capture_output=True, timeout=120)
    assert p.returncode == status, (args, p.returncode, p.stderr)
    return Drawing(p.stdout)


def human(n):
    """N bytes, as qed-img prints them."""
    d, i = n, 0
    while d >= 999.5:
        d, i = d / 1024, i + 1
    return f"{d:.3g} {['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'][i]}"


def percent(part, whole):
    """PART of WHOLE, as qed-img prints it."""
    share = 100 * part / whole
    return "<0.1%" if 0 < share < 0.05 else f"{share:.1f}%"
