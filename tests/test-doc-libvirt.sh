#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# libvirt accepts the disk in the man page, and QEMU's NBD client finds the
# content where libvirt tells it to look.

source ./functions.sh virt-xml-validate qemu-img nbdcopy

cd $d
man=plugin/nbdkit-qed-plugin.pod
doc_block $man 'support QED, sees a raw disk on NBD' >disk.xml
domain ()
{
    echo "<domain type='kvm'><name>guest</name>"
    echo "<memory unit='GiB'>1</memory>"
    echo "<os><type arch='x86_64'>hvm</type></os><devices>"
    cat "$1"
    echo "</devices></domain>"
}
domain disk.xml >domain.xml
virt-xml-validate domain.xml domain
# <readonly/>, which the text names, is allowed there too.
grep -F 'C<< <readonly/> >>' "$abs_top_srcdir/$man"
sed 's|<target|<readonly/>&|' domain.xml >readonly.xml
virt-xml-validate readonly.xml domain
sed 's/transport=/transprt=/' domain.xml >bad.xml
fails 3 'fails to validate|validity error' virt-xml-validate bad.xml domain

qed-img create -q disk.qed 3M
echo 'for a guest' >disk.raw
truncate -s 3M disk.raw
nbdkit -U - qed disk.qed --run 'nbdcopy disk.raw "$uri"'
grep "driver name='qemu' type='raw'" disk.xml
protocol=$(sed -n "s/.*<source protocol='\(.*\)'>.*/\1/p" disk.xml)
transport=$(sed -n "s/.*<host transport='\([a-z]*\)'.*/\1/p" disk.xml)
# It is the one of the units.
socket=$(sed -n "s/.*socket='\(.*\)'.*/\1/p" disk.xml)
doc_block $man 'qed-disk.socket>:' | grep -x "ListenStream=$socket"
start_nbdkit qed disk.qed
qemu-img convert -O raw --image-opts \
    "driver=raw,file.driver=$protocol,file.server.type=$transport,file.server.path=$sock" \
    got.raw
cmp disk.raw got.raw
