#!/usr/bin/env python3
"""Hashes of what pip fetches for this project: pinned before, checked after. Python's standard library only.

    python3 -I .cargo/pins.py pin            after a change of a version: writes the hashes into the requirement files anew
    python3 -I .cargo/pins.py verify FOLDER  whether every file that `pip install --target FOLDER` left is as its wheel recorded it

`pin` asks pip's index (PIP_INDEX_URL, pip's configuration, or else pip's default) for the hashes of all wheels of each pinned
version, of every platform and of every Python that the requirement's marker allows. The wheels themselves are not fetched.
"""

import base64
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FILES = [
    ".cargo/requirements.txt",
    ".cargo/cuda-requirements.txt",
    "src/infer/onnxruntime.txt",
    "src/infer/onnxruntime-cuda.txt",
    "src/infer/onnxruntime-openvino.txt",
]


def ask_pip(*arguments):
    return subprocess.run([sys.executable, "-I", *arguments], check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout


def index():
    """The address of the package index that pip would ask."""
    settings = dict(line.split("=", 1) for line in ask_pip("-m", "pip", "config", "list").splitlines() if "=" in line)
    named = [settings[key].strip("'\"") for key in (":env:.index-url", "global.index-url", "install.index-url") if key in settings]
    default = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    return (named + [ask_pip("-c", default).strip()])[0].rstrip("/")


def hashes_of(package):
    """The SHA-256 of each of a package's files, by file name."""
    page = "%s/%s/" % (index(), package)
    accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
    with urllib.request.urlopen(urllib.request.Request(page, headers={"Accept": accept}), timeout=300) as answer:
        kind, text = answer.headers.get_content_type(), answer.read().decode()
    if kind.endswith("json"):
        return {file["filename"]: file["hashes"].get("sha256") for file in json.loads(text)["files"]}
    links = re.findall(r'href="([^"#]+)#sha256=([0-9a-f]{64})', text)
    return {urllib.parse.unquote(link.rsplit("/", 1)[-1]): value for link, value in links}


def allows(marker, wheel):
    """Whether a wheel is for a Python that the marker, of Python's version alone, lets in."""
    tag, abi = wheel[: -len(".whl")].split("-")[-3:-1]
    minors = re.findall(r"(?:cp|pp)3(\d+)", tag)
    if not minors or abi == "abi3":
        return True
    compare = {">=": int.__ge__, "<": int.__lt__, "==": int.__eq__}
    rules = re.findall(r'python_version (>=|<|==) "3\.(\d+)"', marker)
    return any(all(compare[rule](int(minor), int(bound)) for rule, bound in rules) for minor in minors)


def pinned(requirement):
    """The requirement with the hashes of its wheels."""
    name, version, marker = re.match(r"([\w.-]+)==([\w.]+)(.*)", requirement).groups()
    files = hashes_of(name).items()
    wheels = sorted(
        value for file, value in files if file.endswith(".whl") and file.split("-")[1] == version and allows(marker, file)
    )
    if not wheels or None in wheels:
        sys.exit("pins: the index has no wheels with hashes of %s %s" % (name, version))
    return " \\\n".join([requirement] + ["    --hash=sha256:" + value for value in wheels]) + "\n"


def pin():
    for file in FILES:
        path = os.path.join(ROOT, file)
        with open(path) as text:
            lines = [line.rstrip(" \\\n") for line in text if not line.startswith("    --hash=")]
        new = [pinned(line) if re.match(r"[\w.-]+==", line) else line + "\n" for line in lines]
        with open(path, "w") as text:
            text.writelines(new)
        print("%s: %d hashes" % (file, "".join(new).count("--hash=")))


def recorded(folder):
    """The hashes that the wheels' RECORD files name, by path. A file of several wheels has several."""
    known = {}
    for entry in os.listdir(folder):
        record = os.path.join(folder, entry, "RECORD")
        if entry.endswith(".dist-info") and os.path.isfile(record):
            with open(record, newline="", encoding="utf-8") as text:
                for row in csv.reader(text):
                    known.setdefault(os.path.normpath(row[0]), set()).add(row[1])
    return known


def hash_of(path):
    value = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            value.update(piece)
    return "sha256=" + base64.urlsafe_b64encode(value.digest()).rstrip(b"=").decode()


def verify(folder):
    """pip checks the hash of each wheel, but not what lies in the folder afterwards."""
    known = recorded(folder)
    # pip writes the programs of bin itself, so no wheel records them; nothing here runs them. A RECORD has no hash of itself.
    rooms = [room for room in sorted(os.listdir(folder)) if room != "bin" and os.path.isdir(os.path.join(folder, room))]
    checked = 0
    for room in rooms:
        for place, _, names in os.walk(os.path.join(folder, room)):
            for name in names:
                path = os.path.join(place, name)
                short = os.path.relpath(path, folder)
                if name == "RECORD" and room.endswith(".dist-info"):
                    continue
                if os.path.islink(path) or hash_of(path) not in known.get(short, ()):
                    sys.exit("pins: %s is not as its package recorded it: remove %s and fetch it again" % (short, folder))
                checked += 1
    if not checked:
        sys.exit("pins: there is nothing in %s" % folder)


if __name__ == "__main__":
    if sys.argv[1:] == ["pin"]:
        pin()
    elif len(sys.argv) == 3 and sys.argv[1] == "verify":
        verify(sys.argv[2])
    else:
        sys.exit(__doc__)
