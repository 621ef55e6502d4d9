#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# stream-rate= is how much is copied a second, at most.  -D qed.stream=1 tells
# the progress, in percent.

source ./functions.sh nbdcopy

cd $d
head -c 4M /dev/urandom >base
cp base want
complete ()
{
    grep 'streaming is complete' $log
}

qed-img create -b base -F raw x.qed
start=$(date +%s%N)
start_nbdkit -v -D qed.stream=1 qed x.qed stream=true stream-rate=1M
wait_for 120 complete
end=$(date +%s%N)
test $(((end - start) / 1000000)) -ge 2500
stop_nbdkit
number='\([0-9]*\)'
sed -n "s/^.*x\.qed: streaming: $number %: $number of $number bytes\$/\1 \2 \3/p" \
    $log >progress
test $(wc -l <progress) -ge 5
# Each line is further on, and right.
awk '$1 <= last || $1 >= 100 || $3 != 4194304 || $1 != int($2 * 100 / $3) {
         print "wrong: " $0; bad = 1 }
     { last = $1 }
     END { exit bad }' progress

# At any rate what is copied is right, and without the flag nothing is told.
for rate in '' stream-rate=1G stream-rate=20M stream-rate=5000001; do
    rm x.qed
    qed-img create -b base -F raw x.qed
    start_nbdkit -v qed x.qed stream=true $rate
    wait_for 120 complete
    stop_nbdkit
    absent 'streaming: .*%' $log
    nbdkit -r -U - qed x.qed backing=none --run 'nbdcopy "$uri" got'
    cmp got want
done

# Nor without -v.
rm x.qed
qed-img create -b base -F raw x.qed
start_nbdkit -D qed.stream=1 qed x.qed stream=true
is_alone ()
{
    qed-img info --output=json x.qed >info && ! grep backing-filename info
}
wait_for 120 is_alone
stop_nbdkit
test ! -s $log
