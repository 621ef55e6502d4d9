#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The ./nbdkit of the build directory runs the new plugin under its short name.
# It runs other plugins unchanged.

source ./functions.sh nbd nbdinfo

"$PYTHON" -c 'import os, qedimg
qedimg.Image (1 << 20).save (os.environ["d"] + "/x.qed")'
nbdkit qed --dump-plugin | grep -x "path=$plugin"
nbdkit -f --exit-with-parent -U - -e qed -t 4 --run 'nbdinfo --size "$uri"' \
       --filter cow qed $d/x.qed | grep -x 1048576
nbdkit -fU $d/a.sock -P $d/a.pid qed $d/x.qed &
cleanup_fn wait $!
wait_for 60 test -s $d/a.pid
nbdinfo --size "nbd+unix:///?socket=$d/a.sock" | grep -x 1048576
kill $(cat $d/a.pid)
nbdkit -U - memory 5M --run 'echo qed; nbdinfo --size "$uri"' >$d/out
printf 'qed\n5242880\n' | cmp - $d/out
# A file may have the plugin's name.
cd $d
cp x.qed qed
nbdkit -U - qed qed --run 'nbdinfo --size "$uri"' | grep -x 1048576
