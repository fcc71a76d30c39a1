#!/bin/sh
# On the instance that becomes an image: installs the package that was put into /tmp.
set -eu
if [ -f /tmp/perch.deb ]; then
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends /tmp/perch.deb
else
    dnf --quiet --assumeyes install /tmp/perch.rpm
fi
perch --version

# Every instance of the image boots without a configuration once, and perch would fail there: user data enables it when it
# has written one.
systemctl --quiet disable perch.service perch.socket
