#!/bin/sh
# On the instance that becomes an image: installs the package that was put into /tmp.
set -eu
if [ -f /tmp/perch.deb ]; then
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends /tmp/perch.deb
else
    # Nobody signed it, and a hardened image may ask for that (localpkg_gpgcheck): who makes the image made it.
    dnf --quiet --assumeyes --disablerepo='*' --nogpgcheck install /tmp/perch.rpm
fi
perch --version

# Every instance of the image boots without a configuration once, and perch would fail there: user data enables it when it
# has written one.
systemctl --quiet disable perch.service perch.socket
