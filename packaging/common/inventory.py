#!/usr/bin/env python3
"""What the binary is made of: packaging/common/inventory.py BINARY DIRECTORY

Writes two files into DIRECTORY, from `cargo metadata` and the sources that cargo has fetched:

perch.cdx.json    the parts as an SBOM, CycloneDX 1.5
third-party.txt   the parts with their licences, and each licence text once

A part is what is linked into the binary: crates that are only compiled to run at build time, and what tests need, are
left out. The same source gives the same bytes; the date is SOURCE_DATE_EPOCH. The licence of the whole goes to standard
output.
"""

import datetime
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.parse
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MACHINES = {62: "x86_64", 183: "aarch64"}

# Files that a crate keeps its terms in, wherever they are in it: ring's are with what it took over from others.
TERMS = re.compile(r"(un)?licen[cs]e|copying|copyright|notice", re.IGNORECASE)

# For crates that name their licence and come without its text.
STANDARD = {
    "MIT": """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.""",
    "ISC": """Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby
granted, provided that the above copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL
IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT,
INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN
ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF
THIS SOFTWARE.""",
}

# Debian and the distributions of the Fedora family keep the C library's terms here.
LGPL = ["/usr/share/common-licenses/LGPL-2.1", "/usr/share/licenses/glibc/COPYING.LIB"]


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


def linked(metadata):
    """The packages that end up in the binary, by their ids."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    needs, waiting = {}, [metadata["resolve"]["root"]]
    while waiting:
        here = waiting.pop()
        if here in needs:
            continue
        needs[here] = sorted(
            dependency["pkg"]
            for dependency in nodes[here]["deps"]
            if any(kind["kind"] is None for kind in dependency["dep_kinds"])
            and not any("proc-macro" in target["kind"] for target in packages[dependency["pkg"]]["targets"])
        )
        waiting += needs[here]
    return packages, needs


def expression(package):
    """The licence as SPDX writes it; a slash is cargo's older way to say OR."""
    return re.sub(r"\s*/\s*", " OR ", package["license"] or "")


def terms_of(package):
    """The licence texts that a package carries, or the standard text of the licence that it names."""
    directory = Path(package["manifest_path"]).parent
    files = [
        path
        for path in sorted(directory.rglob("*"))
        if TERMS.match(path.name) and path.is_file() and path.suffix != ".rs" and "tests" not in path.parts
    ]
    texts = [path.read_text(errors="replace").replace("\r\n", "\n").strip() for path in files]
    if texts:
        return texts
    standard = STANDARD.get(package["license"])
    if standard is None:
        sys.exit(f"{package['name']} {package['version']} has no licence text, and {package['license']} is not known here")
    holders = ", ".join(re.sub(r"\s*<.*?>", "", author) for author in package["authors"])
    return [f"Copyright (c) {holders or 'the authors of ' + package['name']}\n\n{standard}"]


def archive(machine, name):
    """The compiler that links for this machine, and an archive that it links."""
    compiler = "cc" if machine == platform.machine() else f"{machine}-linux-gnu-gcc"
    return compiler, Path(output(compiler, f"-print-file-name={name}").strip())


def packaged(path):
    """The version, with the distribution's revision, of the package that a file is of; nothing where no package manager knows it."""
    for find, show in [
        (["dpkg-query", "--search"], ["dpkg-query", "--show", "--showformat=${Version}"]),
        (["rpm", "--query", "--queryformat=%{NAME}:", "--file"], ["rpm", "--query", "--queryformat=%{VERSION}-%{RELEASE}"]),
    ]:
        if shutil.which(find[0]) is None:
            continue
        # Debian knows a file by the way to it that is without links and dots.
        found = subprocess.run([*find, path.resolve()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        if found.returncode == 0:
            return output(*show, re.match(r"[^:,]+(:\w+(?=:))?", found.stdout)[0])
    return None


def libc_version(machine):
    """The version that the C library has which is linked for this machine: its package's, or as it says of itself."""
    compiler, library = archive(machine, "libc.a")
    said = re.search(rb"GNU C Library .*? version (\d+\.\d+)", library.read_bytes() if library.is_absolute() else b"")
    if said is None:
        sys.exit(f"the C library that {compiler} links does not say which it is: {library}")
    return packaged(library) or said[1].decode()


def gcc_version(machine):
    """The version of the runtime of GCC that is linked for this machine (libgcc, libgcc_eh)."""
    compiler, library = archive(machine, "libgcc_eh.a")
    return packaged(library) or output(compiler, "-dumpfullversion").strip()


def beside(packages, needs, machine):
    """What is linked and is no crate, as (name, version, licence, address, texts)."""
    release = re.search(r"^release: (.+)$", output("rustc", "-vV"), re.MULTILINE).group(1)
    yield ("rust-std", release, "MIT OR Apache-2.0", "https://www.rust-lang.org", [])
    lgpl = next((Path(path) for path in LGPL if Path(path).exists()), None)
    if lgpl is None:
        sys.exit(f"the terms of the C library are in none of {', '.join(LGPL)}")
    yield ("glibc", libc_version(machine), "LGPL-2.1-or-later", "https://www.gnu.org/software/libc/", [lgpl.read_text().strip()])
    yield ("gcc-runtime", gcc_version(machine), "GPL-3.0-or-later WITH GCC-exception-3.1", "https://gcc.gnu.org", [])
    sqlite = next((packages[key] for key in needs if packages[key]["name"] == "libsqlite3-sys"), None)
    if sqlite is not None:
        header = (Path(sqlite["manifest_path"]).parent / "sqlite3/sqlite3.h").read_text()
        version = re.search(r'^#define SQLITE_VERSION\s+"(.+)"', header, re.MULTILINE).group(1)
        yield ("sqlite", version, "blessing", "https://www.sqlite.org", [])


def purl(kind, name, version):
    """A package's address (package-url): what is neither a letter nor a digit nor one of .-_~: is escaped in it."""
    return f"pkg:{kind}/{name}@{urllib.parse.quote(version, safe=':')}"


def bill(binary, packages, needs, root, others):
    """The SBOM."""
    with open(ROOT / "Cargo.lock", "rb") as lock:
        checksums = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.load(lock)["package"]}

    def reference(key):
        return purl("cargo", packages[key]["name"], packages[key]["version"])

    def licences(text):
        single = re.fullmatch(r"[A-Za-z0-9.+-]+", text)
        return [{"license": {"id": text}}] if single else [{"expression": text}]

    def component(key):
        package = packages[key]
        checksum = checksums.get((package["name"], package["version"]))
        part = {
            "type": "library",
            "bom-ref": reference(key),
            "name": package["name"],
            "version": package["version"],
            "licenses": licences(expression(package)),
            "purl": reference(key),
        }
        if checksum:
            part["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        if package["repository"]:
            part["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
        return part

    crates = sorted((key for key in needs if key != root), key=reference)
    components = [component(key) for key in crates]
    for name, version, licence, address, _ in others:
        components.append({
            "type": "library",
            "bom-ref": purl("generic", name, version),
            "name": name,
            "version": version,
            "licenses": licences(licence),
            "purl": purl("generic", name, version),
            "externalReferences": [{"type": "website", "url": address}],
        })
    own = packages[root]
    digest = hashlib.sha256(binary.read_bytes()).hexdigest()
    moment = datetime.datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), datetime.timezone.utc)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": reference(root),
                "name": own["name"],
                "version": own["version"],
                "licenses": licences(expression(own)),
                "hashes": [{"alg": "SHA-256", "content": digest}],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": reference(key), "dependsOn": sorted(reference(needed) for needed in needs[key])}
            for key in sorted(needs, key=reference)
        ],
    }
    document["dependencies"][[d["ref"] for d in document["dependencies"]].index(reference(root))]["dependsOn"] += [
        purl("generic", name, version) for name, version, *_ in others
    ]
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def terms(packages, needs, root, others):
    """The list of parts and the texts."""
    parts = [
        (packages[key]["name"], packages[key]["version"], expression(packages[key]), terms_of(packages[key]))
        for key in needs
        if key != root
    ]
    parts += [(name, version, licence, texts) for name, version, licence, _, texts in others]
    parts.sort(key=lambda part: part[:2])
    numbers, lines = {}, []
    for name, version, licence, texts in parts:
        held = [numbers.setdefault(text, len(numbers) + 1) for text in texts]
        lines.append(f"{name} {version}: {licence}" + (f"; text {', '.join(map(str, held))}" if held else ""))
    rule = "-" * 100
    texts = "".join(f"\n{rule}\nText {number}\n{rule}\n{text}\n" for text, number in numbers.items())
    return (
        "perch is linked statically with what is listed here. Where a licence leaves a choice, it is the receiver's.\n"
        "The C library may be replaced by building perch from its source with another one. The runtime of GCC is under\n"
        "its exception, which asks for nothing here; SQLite is in the public domain.\n\n" + "\n".join(lines) + "\n" + texts
    )


def main():
    binary, directory = Path(sys.argv[1]), Path(sys.argv[2])
    machine = MACHINES[int.from_bytes(binary.open("rb").read(20)[18:], "little")]
    metadata = json.loads(output(
        "cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={machine}-unknown-linux-gnu"))
    packages, needs = linked(metadata)
    root = metadata["resolve"]["root"]
    others = list(beside(packages, needs, machine))
    (directory / "perch.cdx.json").write_text(bill(binary, packages, needs, root, others))
    (directory / "third-party.txt").write_text(terms(packages, needs, root, others))
    every = {expression(packages[key]) for key in needs} | {licence for _, _, licence, *_ in others}
    # Parentheses occur only around an OR.
    every = {part.strip("()") for licence in every for part in licence.split(" AND ")}
    print(" AND ".join(sorted(f"({licence})" if " OR " in licence else licence for licence in every)))


main()
