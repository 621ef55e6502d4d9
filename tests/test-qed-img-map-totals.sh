#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# map --totals prints only the sums of the extents that map lists, and a bar
# for each layer that has data.  The JSON has the same sums.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import collections, json, os, random, re
import qedimg, qedtest
os.chdir(qedtest.TMP)

def make(r, path, backing):
    cs = r.choice(qedimg.CLUSTER_SIZES[:5])
    size = int(2 ** r.uniform(12, 24)) // 512 * 512
    img = qedimg.Image(size, cs, 2, backing=backing, seed=r.random())
    clusters = -(-size // cs)
    c = 0
    while c < clusters and img.end * cs < 16 << 20:
        kind = r.choices(("data", "zero", "none", "bad"), (4, 3, 5, 0.2))[0]
        for c in range(c, min(clusters, c + int(2 ** r.uniform(0, 5)))):
            if kind == "data":
                img.data(c)
            elif kind == "zero":
                img.zero(c)
            elif kind == "bad":
                img.entry(c, 12345)
        c += 1
    img.save(path)
    return size

def human(n):
    d, i = n, 0
    while d >= 999.5:
        d, i = d / 1024, i + 1
    return f"{d:.3g} {['B', 'KiB', 'MiB', 'GiB'][i]}"

def bar(entries, depth, start, length):
    """The row of a layer, from what map says: (bytes, bad) of 64 cells."""
    row = ""
    edges = [start + length * i // 64 for i in range(65)]
    for a, b in zip(edges, edges[1:]):
        inside = [(min(b, e["start"] + e["length"]) - max(a, e["start"]), e)
                  for e in entries if e["depth"] == depth and e["data"]]
        inside = [(n, e) for n, e in inside if n > 0]
        n = sum(n for n, e in inside)
        if any("offset" not in e for _, e in inside):
            row += "!"
        else:
            row += ("." if n == 0 else "#" if n == b - a else
                    "-+*"[int(2.999 * (n / (b - a)))])
    return f"[{row}]"

def check(seed):
    print("seed", seed)
    r = random.Random(seed)
    backing, names = None, []
    for i in range(r.choice((1, 2, 3))):
        size = make(r, f"{i}.qed", backing)
        backing = f"{i}.qed"
        names.insert(0, backing)
    top = names[0]
    args = []
    start, length = 0, size
    if r.random() < 0.5:
        start = r.randrange(size)
        length = r.randrange(1, size - start + 1)
        args = ["-s", str(start), "-l", str(length)]

    # The status is 1 if something can't be read.
    qed_img = os.environ["QED_IMG"]
    out = qedtest.run("sh", "-c", f"{qed_img} map --output=json {' '.join(args)} "
                      f"{top} 2>err || test -s err")
    entries = json.loads(out)
    assert sum(e["length"] for e in entries) == length
    with open("err") as f:
        err = f.read()
    status = 1 if err else 0

    want = collections.defaultdict(lambda: [0, 0, 0])
    absent = 0
    for e in entries:
        if not e["present"]:
            absent += e["length"]
        else:
            kind = 1 if e["zero"] else 0 if "offset" in e else 2
            want[e["depth"]][kind] += e["length"]
    got = qedtest.qed_img("map", "--totals", "--output=json", *args, top,
                          status=status)
    assert got[1] == err
    assert json.loads(got[0]) == {
        "start": start, "length": length, "absent": absent,
        "layers": [{"depth": d, "filename": names[d], "data": want[d][0],
                    "shared": 0, "zero": want[d][1], "unreadable": want[d][2]}
                   for d in sorted(want)]}, got[0]

    lines = [f"{human(length):>10} 100.0%  from offset "
             f"{hex(start) if start else 0}"]
    def add(n, what):
        percent = 100 * n / length
        share = f"{percent:.1f}" if percent >= 0.05 else "<0.1"
        if n:
            lines.append(f"{human(n):>10} {share:>5}%  {what}")
    for d in sorted(want):
        for n, what in zip(want[d], ("data", "zeros", "can't be read")):
            add(n, f"{what} in {names[d]}")
    add(absent, "nothing, which reads as zeros")
    for d, name in enumerate(names):
        if d == 0 or want[d][0] or want[d][2]:
            lines.append(f"{bar(entries, d, start, length)} {name}")
    legend = " . no data, -+* some, # only data"
    if any(w[2] for w in want.values()):
        legend += ", ! can't be read"
    lines.append(legend)
    got = qedtest.qed_img("map", "--totals", *args, top, status=status)
    assert got[1] == err
    assert got[0].splitlines() == lines, (got[0], lines)
    return len([line for line in lines if line[0] == "["])

rows = [check(seed) for seed in qedtest.some(range(40))]
assert 1 in rows and (3 in rows or len(rows) < 40)

# A range beyond the end of the disk is empty.
out, _ = qedtest.qed_img("map", "--totals", "-s", "1G", "0.qed")
assert out == "       0 B 100.0%  from offset 0x40000000\n", out
out, _ = qedtest.qed_img("map", "--totals", "--output=json", "-s", "1G",
                         "0.qed")
assert json.loads(out) == {"start": 1 << 30, "length": 0, "absent": 0,
                           "layers": []}
# Control characters of a name are escaped.
name = "a\x1b\u202eb.qed"
img = qedimg.Image(1 << 20)
img.data(0)
img.save(name)
out, _ = qedtest.qed_img("map", "--totals", name)
assert "] a\\x1b\\xe2\\x80\\xaeb.qed\n" in out, out
out, _ = qedtest.qed_img("map", "--totals", "--output=json", name)
assert "\u202e" not in out
assert json.loads(out)["layers"][0]["filename"] == name
END

# Without a terminal and without --totals, map prints no sums.
qed-img map $d/0.qed >$d/out || :
absent 100.0% $d/out
