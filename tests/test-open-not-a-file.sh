#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A name that cannot be an image, such as a directory or a FIFO, is refused at
# once, before nbdkit forks.  Opening a FIFO does not block.  The message names
# the file and says what it is.

source ./functions.sh nbd

refused "$d/none.qed: .*No such file" qed $d/none.qed
mkdir $d/dir
refused "$d/dir: .*directory" qed $d/dir
refused "$d/dir/: .*directory" qed $d/dir/
mkfifo $d/fifo
refused "$d/fifo: .*FIFO" qed $d/fifo
"$PYTHON" -c '
import os, socket
socket.socket (socket.AF_UNIX).bind (os.environ["d"] + "/socket")
'
refused "$d/socket: " qed $d/socket
refused "/dev/null: .*character device" qed /dev/null
ln -s loop $d/loop
refused "$d/loop: .*symbolic links" qed $d/loop
touch $d/file
refused "$d/file/x: .*[Nn]ot a directory" qed $d/file/x
ln -s none.qed $d/dangling
refused "$d/dangling: .*No such file" qed $d/dangling
