#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A name may contain characters that control a terminal or reorder the text
# around them.  None reaches the output.  Text masks or escapes them.  JSON
# writes them as \u, which keeps the name.

source ./functions.sh nbd nbdcopy

cd $d
"$PYTHON" - <<'END'
import json
import subprocess
import qedimg, qedtest

CONTROLS = ("\x01\x1b\x7f\x80\x85\x9b\x9f\u061c\u200e\u200f\u2028\u2029\u202a"
            "\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# The neighbours of these characters in Unicode are printed as they are.
TEXT = "\xa0\u061b\u061d\u200d\u2010\u2027\u202f\u2065\U0001f600"

def clean(text):
    """Nothing but text, of which the neighbours are still a part."""
    if isinstance(text, bytes):
        text = text.decode()
    bad = [c for c in CONTROLS if c in text]
    assert not bad, (bad, text)
    return text

def escaped(c):
    return "".join(f"\\x{b:02x}" for b in c.encode())

def info(*args, status=0):
    return qedtest.qed_img("info", *args, status=status)

img = qedimg.Image(1 << 20)
names = [f"a{c}b.qed" for c in qedtest.some(CONTROLS, 4)]
names.append(TEXT + ".qed")
for name in names:
    c = name[1]
    img.save(name)
    out = clean(info(name)[0])
    assert "image: " + (name if name.startswith(TEXT[0]) else
                        f"a{escaped(c)}b.qed") in out, out
    out = clean(info("--output=json", name)[0])
    assert json.loads(out)["filename"] == name, out
    if not name.startswith(TEXT[0]) and ord(c) >= 0x7f:
        assert f'"a\\u{ord(c):04x}b.qed"' in out, out
    out = clean(qedtest.qed_img("check", "--output=json", name)[0])
    assert json.loads(out)["filename"] == name, out

# The name of the backing file, in every output that shows it.
back = f"b{CONTROLS}{TEXT}.raw"
with open(back, "wb") as f:
    f.write(b"x" * 65536)
img = qedimg.Image(1 << 20, backing=back,
                   features=qedimg.F_BACKING_FORMAT_NO_PROBE)
img.save("x.qed")
shown = "b" + "".join(map(escaped, CONTROLS)) + TEXT + ".raw"
assert "backing file: " + shown in clean(info("x.qed")[0])
out = clean(info("--output=json", "x.qed")[0])
assert json.loads(out)["backing-filename"] == back, out
assert shown in clean(qedtest.qed_img("map", "x.qed")[0])
clean(qedtest.qed_img("create", "-q", "y.qed", "1M")[0])
out = clean(qedtest.qed_img("create", "-b", back, "-F", "raw", "y.qed")[0])
assert shown in out, out

# Messages of the library have a question mark for each byte of such a
# character.
img = qedimg.Image(1 << 20, backing="m" + back)
img.save("x.qed")
shown = "".join("?" * len(c.encode()) for c in CONTROLS) + TEXT + ".raw: "
for args in (["map", "x.qed"], ["info", "--backing-chain", "x.qed"]):
    err = clean(qedtest.qed_img(*args, status=1)[1])
    assert "mb" + shown in err, err
p = subprocess.run(["nbdkit", "-U", "-", "qed", "x.qed", "--run", "true"],
                   capture_output=True, timeout=60)
assert p.returncode == 1
assert "mb" + shown in clean(p.stderr), p.stderr
# So have the plugin's own messages, and debug messages.
img = qedimg.Image(1 << 20)
img.entry(3, 12345)
img.save(back)
qedimg.Image(1 << 20, backing=back).save("x.qed")
shown = "".join("?" * len(c.encode()) for c in CONTROLS) + TEXT + ".raw"
p = subprocess.run(["nbdkit", "-U", "-", "qed", "x.qed", "salvage=true",
                    "--run", "true"], capture_output=True, timeout=60)
assert p.returncode == 0
assert f"b{shown} is corrupt there" in clean(p.stderr), p.stderr
p = subprocess.run(["nbdkit", "-v", "-D", "qed.table=1", "-r", "-U", "-", "qed",
                    "x.qed", "--run", 'nbdcopy "$uri" null:'],
                   capture_output=True, timeout=60)
assert p.returncode == 1
assert f"b{shown}: table at" in clean(p.stderr), p.stderr
for key in "check", "backing":
    p = subprocess.run(["nbdkit", "-U", "-", "qed", "x.qed",
                        f"{key}={CONTROLS}", "--run", "true"],
                       capture_output=True, timeout=60)
    assert p.returncode == 1
    clean(p.stderr)
# Messages about the command line, too.
err = clean(qedtest.qed_img("info", "--output=" + CONTROLS, "x.qed",
                            status=1)[1])
assert escaped("\u202e") in err, err
END
