#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Names with any bytes make a valid drawing, which shows them escaped: markup,
# control characters, invalid UTF-8, and what XML forbids.  Of a long name the
# end is shown.

source ./functions.sh nbd rsvg-convert xmllint

cd $d
"$PYTHON" - <<'END'
import os, subprocess
import svgmap
from qedimg import Image

img = Image(1 << 20)
img.data(0)

def draw(name, backing=None):
    img = Image(1 << 20, backing=backing)
    img.data(0)
    img.save(name)
    m = svgmap.draw(name)
    for e in m.root.iter():
        assert e.tag.split("}")[1] in (
            "svg", "title", "desc", "style", "defs", "pattern", "g", "path",
            "rect", "text", "tspan"), e.tag
        for key in e.keys():
            assert not key.startswith("on") and "href" not in key, key
    assert b"http" not in m.svg.replace(b"http://www.w3.org/2000/svg", b"")
    return m

def check(name, want, backing=None):
    m = draw(name, backing)
    # A second parser, and a program that shows it.
    subprocess.run(["xmllint", "--noout", "-"], input=m.svg, check=True)
    m.render()
    title = m.root.find(svgmap.SVG + "title").text
    assert title == want, (title, want)
    if len(want) <= 34:
        assert f"data in {want}\n" in m.text(), m.text()
        assert m.text().startswith(want + "\n"), m.text()
    return m

check(b"<script>alert(1)<\\x.qed", "<script>alert(1)<\\x.qed")
check(b"]]><!--&amp;\"'&#0;--.qed", "]]><!--&amp;\"'&#0;--.qed")
check(b"a\x01\x1b[31m\n\t\x7f.qed", "a\\x01\\x1b[31m\\x0a\\x09\\x7f.qed")
check(b"\xff\xc0\xaf\xed\xa0\x80\xf4\x90.qed",
      "\\xff\\xc0\\xaf\\xed\\xa0\\x80\\xf4\\x90.qed")
check("\ufffe\uffff.qed".encode(), "\\xef\\xbf\\xbe\\xef\\xbf\\xbf.qed")
check("a\u202eb\u0085.qed".encode(), "a\\xe2\\x80\\xaeb\\xc2\\x85.qed")
check("Größe \U0001f600 日本.qed".encode(), "Größe \U0001f600 日本.qed")
check(b"cut \xe2\x82", "cut \\xe2\\x82")
for i in range(1, 256):
    if i != ord("/"):
        draw(b"x" + bytes([i]) + b"y")

# Of long names the end is shown, however wide the letters are.
m = draw(b"l" * 200 + b"-the-end.qed")
assert f"\ndata in …{'l' * 21}-the-end.qed\n" in m.text(), m.text()
assert m.text().startswith(f"…{'l' * 47}-the-end.qed\n"), m.text()
assert m.root.find(svgmap.SVG + "title").text == "l" * 200 + "-the-end.qed"
m = draw(("日" * 80).encode())
assert f"data in …{'日' * 16}\n" in m.text(), m.text()

# The backing file's name, and that of an image beneath a long path.
Image(1 << 20).data(0)
base = Image(2 << 20)
base.data(9)
base.save(b"<&\xff\x1b>")
m = check(b"over.qed", "over.qed", backing=b"<&\xff\x1b>")
assert "data in <&\\xff\\x1b>\n" in m.text(), m.text()
deep = "/".join(["<&>" * 60] * 20)
os.makedirs(deep)
img.save(deep + "/x.qed")
m = svgmap.draw(deep + "/x.qed")
assert len(m.svg) < 20000, len(m.svg)
END
