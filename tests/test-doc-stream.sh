#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The documents start a machine from an image on a web server, and stream
# overlays.  The disk is right at once.  When the image is complete it needs
# neither the server nor a backing file.

source ./functions.sh nbd libnbd busybox
requires nbdkit curl --dump-plugin

cd $d
mkdir tools www
ln -s "$abs_top_builddir/nbdkit" nbdkit
ln -s "$abs_top_builddir/tools/qed-img" tools/qed-img
man=plugin/nbdkit-qed-plugin.pod

# Data and holes, and an end inside a cluster.
"$PYTHON" - <<'END'
import random
r = random.Random(13)
with open("www/base.raw", "wb") as f:
    for offset in (0, 200000, 3 << 20, (8 << 20) + 512):
        f.seek(offset)
        f.write(r.randbytes(100352))
END
cat >right.py <<'END'
want = open("www/base.raw", "rb").read()
want += bytes(min(1 << 20, h.get_size() - len(want)))
assert h.pread(len(want), 0) == want
END
start_web $d/www

cleanup_fn stop web
cleanup_fn stop qed
stop ()
{
    local pid
    if [ ! -s $1.pid ]; then return 0; fi
    pid=$(cat $1.pid)
    kill $pid
    wait_for 60 gone $pid
    rm -f $1.pid $1.sock
}

# run COMMANDS: a document's, with this test's server and directory, and with
# pid files.
run ()
{
    bash -e -c "$(sed -e "s|https\\?://[a-z.]*/|$web/|" -e "s|/tmp/|$d/|g" \
                      -e '/ -P /! s|-U \([^ ]*\)\.sock|-P \1.pid &|' \
                      <<<"$1")" </dev/null
}

right ()
{
    nbdsh -u "nbd+unix:///?socket=$d/qed.sock" -c - <right.py
}

# names_none IMAGE: its header names no backing file.
names_none ()
{
    qed-img info $1 >info && ! grep '^backing file' info
}

# The man page's commands, with a restart of nbdkit.
machine=$(doc_block $man 'When streaming has finished')
run "$machine"
right
stop qed
run "$(sed -n '/^nbdkit .* qed /,$p' <<<"$machine")"
right
wait_for 60 names_none disk.qed
pid=$(cat web.pid)
run "$(doc_block $man 'continues to run:')"
wait_for 60 gone $pid
right
stop qed
alone=$(doc_block $man 'Afterwards this is enough:')
run "$alone"
right
stop qed
qed-img check disk.qed

# The README's.
rm disk.qed
run "$(doc_block README 'the image no longer has a backing file:')"
right
wait_for 60 names_none disk.qed
stop web
right
stop qed
run "$alone"
right
stop qed

# With the parameter backing the header names none at any time.
rm disk.qed
run "$(sed 1q <<<"$machine")"
run "$(doc_block $man "gives, even if the image's header names none:" |
           sed 's|stream=true|& -v 2>qed.log|')"
right
wait_for 60 grep 'streaming is complete' qed.log
stop web
right
stop qed
run "$alone"
right
stop qed

# An overlay of a file.
for block in "$(doc_block $man '=item Copy the backing file into an overlay')" \
             "$(doc_block tools/qed-img.pod 'nbdkit does the same' |
                    sed 's/^\$ //')" \
             "$(doc_block tools/qed-img.pod 'Make an overlay independent' |
                    sed 's/^\$ //')"; do
    qed-img create -q -b www/base.raw -F raw overlay.qed
    run "$block"
    # nbdkit's pid file may come later than its prompt.
    case $block in
        *'nbdkit '*) ;;
        *) run "${alone/disk.qed/overlay.qed}" ;;
    esac
    right
    wait_for 60 names_none overlay.qed
    stop qed
done
