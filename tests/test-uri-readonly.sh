#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Where the server doesn't take writes, or can't flush, the export is read-only,
# and a debug message says why.  No request to change anything is sent.

source ./functions.sh nbd nbdinfo nbdcopy libnbd filter:log
requires nbdkit eval --version

cd $d
qed-img create x.qed 1M
truncate -s 4M x.qed
# served REGEX ARGS...: with this server the export is read-only, for a reason.
served ()
{
    local re=$1
    shift
    start_nbdkit -n store --filter=log "$@" logfile=$d/requests
    store=$uri
    start_nbdkit -v qed uri="$store"
    nbdinfo --json "$uri" >out
    grep '"is_read_only": true' out
    nbdcopy "$uri" null:
    stop_nbdkit
    grep -E "debug: .*$re" $d/nbdkit.log
    absent 'qed.*error:' $d/nbdkit.log
    stop_nbdkit store
    grep ' Read ' requests
    absent ' (Write|Zero|Trim|Flush) ' requests
}
state_of x.qed >before
served 'the server exports this read-only: the export is read-only' -r file x.qed
served 'the server exports this read-only' --filter=nozero -r file x.qed
served "the server doesn't offer to flush.*durable: the export is read-only" \
       eval get_size='echo 4194304' can_write='exit 0' can_flush='exit 3' \
       pread="tail -c +\$((\$4 + 1)) $d/x.qed | head -c \$3" \
       pwrite="exit 1"
state_of x.qed >after
cmp before after
