#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Through each filter of nbdkit that can be on top of a writable disk a client
# can write, flush and read.  The image has the data afterwards.

source ./functions.sh nbd qemu mke2fs debugfs nbdcopy

"$PYTHON" - <<'END'
import glob, io, os, random, re, struct, subprocess, tarfile
import nbd, qedimg, qedtest

TMP = qedtest.TMP
path = TMP + "/f.qed"
MiB = 1 << 20
SIZE, LAST, PART = 12 * MiB, 11 * MiB, 4 * MiB

# Parameters.
FILTERS = {
    "blocksize": ("minblock=4096", "maxdata=64k"),
    "blocksize-policy": ("blocksize-minimum=512",
                         "blocksize-error-policy=error"),
    "cache": ("cache=writeback", "cache-on-read=true"),
    "cacheextents": (),
    "cow": (),
    "delay": ("delay-write=1ms", "delay-zero=1ms"),
    "error": ("error-rate=0",),
    "exitlast": (),
    "exitwhen": (f"exit-when-file-created={TMP}/no",),
    "exportname": ("default-export=x",),
    "ext2": ("ext2file=/file",),
    "extentlist": (f"extentlist={TMP}/extents",),
    "fua": ("fuamode=emulate",),
    "ip": ("allow=all",),
    "limit": ("limit=3",),
    "log": (f"logfile={TMP}/f.log",),
    "luks": ("passphrase=secret",),
    "multi-conn": ("multi-conn-mode=emulate",),
    "nocache": ("cachemode=emulate",),
    "noextents": (),
    "nofilter": (),
    "noparallel": ("serialize=requests",),
    "nozero": ("zeromode=emulate",),
    "offset": (f"offset={MiB}", f"range={PART}"),
    "partition": ("partition=1",),
    "pause": (f"pause-control={TMP}/f.sock",),
    "protect": (f"protect={LAST}-",),
    "rate": ("rate=8G",),
    "readahead": (),
    "retry": ("retries=1",),
    "retry-request": ("retry-request-retries=1",),
    "scan": ("scan-ahead=true",),
    "stats": (f"statsfile={TMP}/f.stats",),
    "swab": ("swab-bits=16",),
    "tar": ("tar-entry=disk",),
    "truncate": (f"truncate={7 * MiB}",),
}
NOT = {
    "checkwrite": "compares what is written with what is there",
    "ddrescue": "read-only",
    "gzip": "read-only",
    "tls-fallback": "hides the disk from clients without TLS",
    "xz": "read-only",
}

def fill(name):
    """Make what the filter looks for, at the start of the image."""
    raw = TMP + "/raw"
    with open(raw, "wb") as f:
        f.truncate(SIZE)
        if name == "partition":
            f.write(bytes(446) + struct.pack("<B3xB3xII", 0, 0x83, 2048,
                                             PART // 512)
                    + bytes(48) + b"\x55\xaa")
    if name == "tar":
        with tarfile.open(raw, "w") as t:
            info = tarfile.TarInfo("disk")
            info.size = PART
            t.addfile(info, io.BytesIO(bytes(info.size)))
        os.truncate(raw, SIZE)
    elif name == "ext2":
        with open(TMP + "/zeros", "wb") as f:
            f.write(bytes(PART))
        qedtest.run("mke2fs", "-q", "-t", "ext2", raw)
        qedtest.run("debugfs", "-w", "-R", f"write {TMP}/zeros file", raw)
    elif name == "luks":
        # QEMU refuses an iter-time that is too short to measure its speed.
        for ms in (10, 100, 1000):
            p = subprocess.run(["qemu-img", "create", "-q", "-f", "luks",
                                "--object", "secret,id=s,data=secret",
                                "-o", f"key-secret=s,iter-time={ms}",
                                raw, str(PART)])
            if p.returncode == 0:
                break
    elif name != "partition":
        return
    with qedtest.Server("qed", path) as s:
        qedtest.run("nbdcopy", raw, s.uri)

def writes(h, disk, r):
    for _ in range(15):
        n = r.choice((4096, 8192, 65536, 4096 * 50))
        offset = r.randrange((disk.size - n) // 4096) * 4096
        k = r.random()
        if k < 0.2 and h.can_zero():
            h.zero(n, offset)
            disk.zero(n, offset)
        elif k < 0.3 and h.can_trim():
            h.trim(n, offset)
            disk.write(h.pread(n, offset), offset)
        else:
            b = r.randbytes(n)
            h.pwrite(b, offset, nbd.CMD_FLAG_FUA if k > 0.9 and h.can_fua()
                     else 0)
            disk.write(b, offset)
    if h.can_flush():
        h.flush()
    qedtest.check_range(h, disk, 0, disk.size)

def by_filter(name, params):
    img = qedimg.Image(SIZE, 4096, 4)
    img.save(path)
    fill(name)
    with open(TMP + "/extents", "w") as f:
        f.write(f"0 {SIZE} \n")
    r = random.Random(name)
    args = ("--filter=" + name, "qed", path, *params)
    with qedtest.Server(*args) as s:
        h = s.connect()
        assert not h.is_read_only(), name
        # With the luks and ext2 filters the disk is not empty.
        size = min(h.get_size(), LAST)
        disk = qedtest.Disk(size)
        disk.write(b"".join(h.pread(MiB, i) if i + MiB <= size
                            else h.pread(size - i, i)
                            for i in range(0, size, MiB)), 0)
        writes(h, disk, r)
        if name == "protect":
            qedtest.expect_error("EPERM", h.pwrite, b"x" * 512, LAST)
    refs = qedimg.References(path)
    refs.check_clean()

    # Where it is in the image.
    with qedtest.Server("-r", *args) as s:
        h = s.connect()
        if name == "cow":
            assert h.pread(size, 0) == bytes(size)
        else:
            qedtest.check_range(h, disk, 0, size)
    with qedtest.Server("-r", "qed", path) as s:
        h = s.connect()
        if name in ("offset", "partition"):
            got = h.pread(PART, MiB)
        elif name == "tar":
            got = h.pread(PART, 512)
        elif name == "swab":
            got = bytearray(h.pread(size, 0))
            got[::2], got[1::2] = got[1::2], got[::2]
        elif name in ("cow", "luks", "ext2"):
            return
        else:
            got = h.pread(size, 0)
        qedtest.check_bytes(got, disk.read(0, disk.size), 0)

config = qedtest.run("nbdkit", "--dump-config")
filterdir = re.search("^filterdir=(.*)$", config, re.M)[1]
installed = {re.search("nbdkit-(.*)-filter.so", f)[1]
             for f in glob.glob(filterdir + "/nbdkit-*-filter.so")}
print("Not known here:", installed - set(FILTERS) - set(NOT))
print("Not installed:", set(FILTERS) - installed)
for name in qedtest.some(sorted(installed & set(FILTERS)), 6):
    print(name)
    by_filter(name, FILTERS[name])
END
