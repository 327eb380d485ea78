"""List the licences of a bill of materials, and ask for advisories; `scripts/sbom` runs this."""

import json
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

LICENCES = Path("docs/licences.md")
# Has known vulnerabilities (PYSEC-2014-8 and others): an advisory service that reports none of them does not work.
CANARY = "jinja2==2.4.1"
AUDIT = [sys.executable, "-I", "-m", "pip_audit", "--progress-spinner=off", "--disable-pip", "--format=json"]
AUDIT_TIMEOUT = 300.0  # seconds
CLEAN, VULNERABLE, UNKNOWN = 0, 1, 3
TITLE = """# Licences

Licences of the packages in `requirements.txt`, which the image contains; written by `scripts/sbom`. The publisher
of the base image lists what that contains.

| package | licence |
| --- | --- |
"""


def licence(component: dict[str, Any]) -> str:
    """Name a component's licence in the shortest declared form: an expression, an identifier or a classifier."""
    declared = component.get("licenses", [])
    short = [entry.get("expression") or entry["license"].get("id") for entry in declared]
    names = [entry["license"].get("name", "") for entry in declared if "license" in entry]
    # A name may be a whole text; a classifier is "License :: OSI Approved :: ...".
    names = [name.rpartition(" :: ")[2] for name in names if name and "\n" not in name and not name.startswith("decl")]
    found = [name for name in short if name] or names
    return ", ".join(dict.fromkeys(found)) or free_text(component["name"])


def free_text(package: str) -> str:
    """Read the one field that CycloneDX leaves out, as anything may stand there."""
    try:
        text = str(metadata(package).json.get("license", ""))
    except PackageNotFoundError:
        text = ""
    return text if text and "\n" not in text else "not declared"


def write_licences(components: list[dict[str, Any]]) -> None:
    """Write the table."""
    rows = sorted((component["name"].lower().replace("_", "-"), licence(component)) for component in components)
    LICENCES.write_text(TITLE + "".join(f"| {name} | {text} |\n" for name, text in rows))


def advisories(requirements: str, *options: str) -> list[str] | None:
    """List the advisories for a file; None if the service does not answer."""
    command = [*AUDIT, *options, f"--requirement={requirements}"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=AUDIT_TIMEOUT)
        report = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
    found = [(package, bug) for package in report["dependencies"] for bug in package.get("vulns", [])]
    return [f"{package['name']} {package['version']}: {bug['id']}" for package, bug in found]


def audit() -> int:
    """Ask about a vulnerable package first, since no findings may mean that the advisory service does not work."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as canary:
        canary.write(f"{CANARY}\n")
        canary.flush()
        if not advisories(canary.name, "--no-deps"):
            print(f"audit: NO ANSWER. The advisory service cannot be reached, or does not even know {CANARY}")
            return UNKNOWN
    found = advisories("requirements.txt")
    if found is None:
        print("audit: NO ANSWER. The advisory service stopped answering")
        return UNKNOWN
    print("audit:", *(found or ["no known vulnerabilities"]), sep="\n  ")
    return VULNERABLE if found else CLEAN


def main(file: str) -> int:
    """Do both."""
    components = json.loads(Path(file).read_text())["components"]
    write_licences(components)
    print(f"{file}: {len(components)} packages; their licences: {LICENCES}")
    return audit()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
