"""`python docker/sbom.py [EXTRA ...]`: writes dist/sbom-IMAGE.cdx.json, a software bill of materials for each image.

The format is CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/). A bill lists the packages of the image's locks, which are all
of its Python packages, with the hashes of the files that they may come from, and their licences from docs/licences.md. EXTRA is one
that the images were built with besides the default ones, such as `s3`. Bills of the same locks are equal but for their time, which
SOURCE_DATE_EPOCH sets (https://reproducible-builds.org/specs/source-date-epoch/).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import tomllib
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import licences
import lock
from cyclonedx.contrib.hash.factories import HashTypeFactory
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

FOLDER: Final = lock.ROOT / "dist"


class Invalid(Exception):
    """What was made is no CycloneDX document; the message says why."""


def package(name: str, locked: lock.Locked, licence: str) -> Component:
    """One package of a lock. The hashes are those of all files of its version."""
    url = PackageURL("pypi", None, name, locked.version).to_string()
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(url),
        hashes=[HashTypeFactory().from_composite_str(each) for each in locked.hashes],
    )
    return Component(
        name=name,
        version=locked.version,
        purl=PackageURL.from_string(url),
        bom_ref=url,
        licenses=[LicenseFactory().make_from_string(licence)],
        external_references=[files] if locked.hashes else [],
    )


def bill(image: str, extras: Iterable[str], made_at: datetime) -> str:
    """The bill of an image as JSON. Raises `Invalid`."""
    project = tomllib.loads((lock.ROOT / "pyproject.toml").read_text())["project"]
    names = licences.rows(licences.PAGE.read_text())
    locked = lock.image(image, extras)
    packages = [package(name, each, names[name]) for name, each in locked.items()]
    title = f"darkroom-{image}"
    whole = Component(
        name=title,
        version=project["version"],
        type=ComponentType.CONTAINER,
        bom_ref=title,
        licenses=[LicenseFactory().make_from_string(project["license"])],
    )
    contents = repr((title, project["version"], sorted(locked.items())))
    bom = Bom(components=packages, serial_number=uuid.uuid5(uuid.NAMESPACE_OID, contents))
    bom.metadata.component = whole
    bom.metadata.timestamp = made_at
    bom.register_dependency(whole, packages)
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong is not None:
        raise Invalid(f"{title}: {wrong}")
    return text + "\n"


def main(arguments: list[str]) -> None:
    """Writes the bill of materials of each container image, and prints the paths."""
    parser = argparse.ArgumentParser(prog="python docker/sbom.py", description=__doc__)
    parser.add_argument("extras", nargs="*", metavar="EXTRA")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write; dist by default")
    given = parser.parse_args(arguments)
    if unknown := set(given.extras) - set(lock.EXTRAS):
        parser.error(f"no lock for {', '.join(sorted(unknown))}: an extra is one of {', '.join(lock.EXTRAS)}")
    made_at = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())), UTC)
    given.folder.mkdir(parents=True, exist_ok=True)
    for image in lock.IMAGES:
        path = given.folder / f"sbom-{image}.cdx.json"
        path.write_text(bill(image, given.extras, made_at))
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
