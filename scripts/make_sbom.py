#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_sbom.py OUT.spdx.json LICENCES.txt: what a package of Polyad is made of, as SPDX 2.3: LibTorch and the CUDA stubs (scripts/wheels.txt, with their
hashes), the Rust crates (Cargo.lock, with theirs), and the header-only libraries of Debian that are compiled in. The second file holds the licence
text of every part, as the part brings it."""
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

root = pathlib.Path(__file__).resolve().parent.parent
version = re.search(r"project\(polyad VERSION ([\d.]+)", (root / "CMakeLists.txt").read_text())[1]
HEADERS = {"nlohmann-json3-dev": ("nlohmann-json", "MIT"), "libmsgpack-cxx-dev": ("msgpack-c", "BSL-1.0"), "libcli11-dev": ("CLI11", "BSD-3-Clause")}
WHEELS = {"torch": ("LibTorch", "BSD-3-Clause"), "nvidia-cuda-runtime": ("CUDA runtime", "LicenseRef-NVIDIA-EULA"),
          "nvidia-cuda-cupti": ("CUPTI", "LicenseRef-NVIDIA-EULA")}
packages = []


licence_texts = {}  # text: the parts that bring it
LICENCE_FILE = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)", re.I)


def bring(name, number, licence, folder):
    """Takes the licence files of a part from its folder."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and LICENCE_FILE.match(f.name) and f.suffix != ".rs") if folder.is_dir() else []
    texts = [f.read_text(errors="replace").strip() for f in files]
    for text in texts or [f"The package holds no licence text; it names {licence}."]:
        licence_texts.setdefault(text, []).append(f"{name} {number} ({licence})")


def add(name, number, licence, checksum=None, purl=None):
    entry = {"name": name, "SPDXID": f"SPDXRef-{re.sub(r'[^A-Za-z0-9.-]', '-', name)}-{re.sub(r'[^A-Za-z0-9.-]', '-', number)}",
             "versionInfo": number, "downloadLocation": "NOASSERTION", "filesAnalyzed": False, "licenseConcluded": licence,
             "licenseDeclared": licence, "copyrightText": "NOASSERTION"}
    if checksum:
        entry["checksums"] = [{"algorithm": "SHA256", "checksumValue": checksum}]
    if purl:
        entry["externalRefs"] = [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}]
    packages.append(entry)


add("polyad", version, "Apache-2.0")
for line in (root / "scripts/wheels.txt").read_text().splitlines():
    found = re.match(r"([\w-]+)==(\S+) --hash=sha256:(\w+)", line)
    if found and found[1] in WHEELS:
        name, licence = WHEELS[found[1]]
        add(name, found[2], licence, found[3], f"pkg:pypi/{found[1]}@{found[2]}")
        bring(name, found[2], licence, root / f".deps/site/{found[1].replace('-', '_')}-{found[2]}.dist-info/licenses")

manifest = root / "cpp_impl/text/rust/Cargo.toml"
metadata = json.loads(subprocess.run(["cargo", "metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform",
                                      "x86_64-unknown-linux-gnu", "--manifest-path", manifest], check=True, capture_output=True).stdout)
sums = {(n, v): c for n, v, c in re.findall(r'name = "([^"]+)"\nversion = "([^"]+)"\nsource = "[^"]+"\nchecksum = "([^"]+)"',
                                            (manifest.parent / "Cargo.lock").read_text())}
linked = {node["id"] for node in metadata["resolve"]["nodes"]}
for crate in sorted(metadata["packages"], key=lambda c: (c["name"], c["version"])):
    if crate["source"] and crate["id"] in linked:
        licence = (crate["license"] or "NOASSERTION").replace("/", " OR ")
        add(crate["name"], crate["version"], licence, sums.get((crate["name"], crate["version"])), f"pkg:cargo/{crate['name']}@{crate['version']}")
        bring(crate["name"], crate["version"], licence, pathlib.Path(crate["manifest_path"]).parent)
for package, (name, licence) in HEADERS.items():
    found = subprocess.run(["dpkg-query", "-W", "-f=${Version}", package], capture_output=True, text=True).stdout
    add(name, found or "unknown", licence, None, f"pkg:deb/debian/{package}@{found}" if found else None)
    bring(name, found or "unknown", licence, pathlib.Path("/usr/share/doc") / package)

created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
content = json.dumps(packages, sort_keys=True)
document = {
    "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": f"polyad-{version}",
    "documentNamespace": f"https://polyad.dev/spdx/{version}/{hashlib.sha256(content.encode()).hexdigest()[:16]}",
    "creationInfo": {"created": created, "creators": ["Organization: The Polyad authors", "Tool: make_sbom.py"]},
    "packages": packages,
    "hasExtractedLicensingInfos": [{"licenseId": "LicenseRef-NVIDIA-EULA", "name": "NVIDIA CUDA Toolkit EULA",
                                    "extractedText": "The CUDA Toolkit End User License Agreement; redistributable parts (Attachment A)."}],
    "relationships": [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": packages[0]["SPDXID"]}] +
                     [{"spdxElementId": packages[0]["SPDXID"], "relationshipType": "DEPENDS_ON", "relatedSpdxElement": p["SPDXID"]} for p in packages[1:]],
}
pathlib.Path(sys.argv[1]).write_text(json.dumps(document, indent=1) + "\n")
with open(sys.argv[2], "w") as out:
    out.write("The licences of what is in this package beside Polyad's own code. NOTICE says what each part is.\n")
    for text, parts in licence_texts.items():
        out.write("\n" + "=" * 100 + "\n" + "\n".join(dict.fromkeys(parts)) + "\n" + "-" * 100 + f"\n{text}\n")
print(f"{len(packages)} parts in {sys.argv[1]}, {len(licence_texts)} licence texts in {sys.argv[2]}")
