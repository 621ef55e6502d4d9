#!/usr/bin/env bash
# nbdkit-qed
# Copyright (C) 2026 nbdkit-qed authors
#
# Redistribution and use in source and binary forms, with or without
# modification, are permitted provided that the following conditions are
# met:
#
# * Redistributions of source code must retain the above copyright
# notice, this list of conditions and the following disclaimer.
#
# * Redistributions in binary form must reproduce the above copyright
# notice, this list of conditions and the following disclaimer in the
# documentation and/or other materials provided with the distribution.
#
# * Neither the name of nbdkit-qed nor the names of its contributors may be
# used to endorse or promote products derived from this software without
# specific prior written permission.
#
# THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
# ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
# THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
# PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
# CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
# SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
# LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
# USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
# ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
# OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
# OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
# SUCH DAMAGE.

source ./functions.sh
set -e
set -x
requires_program virt-xml-validate qemu-img nbdcopy

# The disk in the man page is one that libvirt takes, and QEMU's NBD client finds
# the content where libvirt tells it to look.
cd $d
man=plugin/nbdkit-qed-plugin.pod
doc_block $man 'may be one without QED' >disk.xml
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
