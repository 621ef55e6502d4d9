#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Of random images, with damage, leaks and backing files, each cell that map
# --output=svg draws shows what map --output=json says of the disk, and what the
# tables say of the file.  The legends have the sums.

source ./functions.sh nbd

cd $d
"$PYTHON" - <<'END'
import collections, json, os, random, shlex, subprocess
import qedcheck, qedimg, qedtest, svgmap

N = svgmap.COLUMNS * svgmap.ROWS
MiB = 1 << 20
BEHIND = "not used"

def make(seed, path, backing):
    img = qedcheck.random_image(seed)
    if backing:
        img.header["features"] |= qedimg.F_BACKING_FILE
        img.header["backing_filename_offset"] = 64
        img.header["backing_filename_size"] = len(backing)
        img.bytes.append((64, backing.encode()))
    r = random.Random(seed)
    if r.random() < 0.5:        # a long piece
        c = r.randrange(max(1, img.size // img.cluster_size - 300))
        for c in range(c, min(c + 300, img.size // img.cluster_size)):
            img.data(c, b"x")
    img.save(path)

def cut(start, length, ranges):
    """Of each of the cells of a range: {kind: bytes of it}."""
    edges = [start + length * i // N for i in range(N + 1)]
    cells = [collections.Counter() for _ in range(N)]
    for begin, end, kind in ranges:
        i = max(0, (begin - start) * N // length)
        while i < N and edges[i] < end:
            n = min(end, edges[i + 1]) - max(begin, edges[i])
            if n > 0:
                cells[i][kind] += n
            i += 1
    return cells, [b - a for a, b in zip(edges, edges[1:])]

def disk_look(cell, size):
    data = {k[5:]: n for k, n in cell.items() if k.startswith("data")}
    names = sorted(data, reverse=True)       # the top layer has the last name
    foot = f"data in {names[0]}" if names else None
    level = 2
    if data:
        total, most = sum(data.values()), max(data.values())
        look = "data in " + next(n for n in names if data[n] == most)
        level = 0 if total < size // 3 else 1 if total < size - size // 3 else 2
    else:
        look = "zeros" if cell["zeros"] and cell["zeros"] >= cell["nothing"] \
            else None
    if cell["shared with another range"]:
        look, level = "shared with another range", 2
    if cell["damaged"]:
        look, level = "damaged", 2
        if cell["shared with another range"]:
            foot = "shared with another range"
    return look, level, None if foot == look else foot

def file_ranges(path, c):
    """What the clusters of the file are used for: (start, end, kind)."""
    m, cs = c.model, c.cs
    owners = collections.Counter()
    def tables_of(entry):
        return range(entry // cs, (entry + m.table_bytes) // cs)
    for i, t in m._nonzero_entries(m.header["l1_table_offset"], m.n):
        if m._sound(t, m.table_bytes):
            for k in tables_of(t):
                owners[k] += i in c.tables or k in c.in_tables
    data = []                   # (cluster, L1 index), in order
    for t, i in sorted((t, i) for i, t in c.tables.items()):
        for _, e in m._nonzero_entries(t, m.n):
            if e != 1 and m._sound(e, cs, t):
                owners[e // cs] += 1
                data.append((e // cs, i))
    yield 0, m.header["header_size"] * cs, "header"
    l1 = m.header["l1_table_offset"]
    yield l1, l1 + m.table_bytes, "L1 and L2 tables"
    for k, n in owners.items():
        if n > 1:
            yield k * cs, (k + 1) * cs, "shared"
        elif k in c.in_tables:
            yield k * cs, (k + 1) * cs, "L1 and L2 tables"
        elif not any(k == d for d, _ in data):
            assert False
    piece = None
    for k, i in data + [(-9, -9)]:
        if owners[k] > 1:
            continue
        if piece and k == piece[1] and i - piece[2] in (0, 1):
            piece = piece[0], k + 1, i
            continue
        if piece:
            kind = ("data in pieces of 1 MiB or more"
                    if (piece[1] - piece[0]) * cs >= MiB else
                    "data in shorter pieces")
            yield piece[0] * cs, piece[1] * cs, kind
        piece = k, k + 1, i
    end = m.file_size // cs * cs
    for k in set(range(end // cs)) - c.used:
        yield k * cs, (k + 1) * cs, "leaked"
    yield end, m.file_size, BEHIND

def file_look(cell, damaged):
    order = ("shared", "leaked", "header", "L1 and L2 tables",
             "data in pieces of 1 MiB or more",
             "data in shorter pieces")
    most = max(cell[k] for k in order)
    look = next((k for k in order if cell[k] == most), None) if most else None
    if cell["shared"]:
        look = "shared"
    if damaged:
        look = "damaged table entries"
    foot = next((k for k in order[:4] if cell[k] and k != look), None)
    return look, 2, foot

def legend(cells, whole):
    sums = sum(cells, collections.Counter())
    return {k: (svgmap.human(n), svgmap.percent(n, whole))
            for k, n in sums.items() if n}

def compare(got, want):
    assert len(got) == len(want)
    for i, (g, w) in enumerate(zip(got, want)):
        assert g == w, (i, g, w)

seen = collections.Counter()

def check(seed):
    print("seed", seed)
    names = [f"{chr(97 + i)}.qed" for i in range(1 + seed % 3)]
    for i, name in enumerate(names):
        make(100 * seed + i, name, names[i - 1] if i else None)
    c = qedcheck.Check(name)
    disk = c.model.size
    p = subprocess.run([*shlex.split(os.environ["QED_IMG"]), "map",
                        "--output=json", name], capture_output=True)
    m = svgmap.draw(name, status=p.returncode)

    def kind(e):
        return ("nothing" if not e["present"] else "zeros" if e["zero"] else
                "shared with another range" if e.get("shared") else
                "damaged" if "offset" not in e else
                "data " + names[-1 - e["depth"]])
    cells, sizes = cut(0, disk, [(e["start"], e["start"] + e["length"], kind(e))
                                 for e in json.loads(p.stdout)])
    compare(m.cells("disk"), [disk_look(*x) for x in zip(cells, sizes)])
    want = {k.replace("data ", "data in "): v
            for k, v in legend(cells, disk).items()}
    assert m.legend("disk") == want, (m.legend("disk"), want)

    whole = c.model.file_size
    cells, _ = cut(0, whole, file_ranges(name, c))
    got = m.legend("file")
    bad = (len(c.damages[qedcheck.BAD_ENTRY]) + c.beyond[qedcheck.BAD_ENTRY])
    assert got.pop("damaged table entries", ("0",)) == (str(bad),), (got, bad)
    assert got == legend(cells, whole), (got, legend(cells, whole))
    got = m.cells("file")
    compare(got, [file_look(x, g[0] == "damaged table entries")
                  for x, g in zip(cells, got)])
    assert any(g[0] == "damaged table entries" for g in got) == (bad > 0)
    seen.update(k[:9] for k in m.legend("file"))
    seen.update(k[:9] for k in m.legend("disk"))
    c.close()

seeds = qedtest.some(range(25), 3)
for seed in seeds:
    check(seed)
print(seen)
assert len(seeds) < 25 or {"shared", "leaked", "damaged",
                           "damaged t"} < set(seen)
END
