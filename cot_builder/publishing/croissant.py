"""Croissant 1.0 metadata (mlcommons.org/croissant/1.0), for tools other than `datasets`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Features, Json, List
from datasets import Image as ImageFeature

CROISSANT_FILE = "croissant.json"
LICENCES = {
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "cc-by-sa-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "cc-by-nc-sa-4.0": "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    "cc-by-nd-4.0": "https://creativecommons.org/licenses/by-nd/4.0/",
    "cc-by-nc-nd-4.0": "https://creativecommons.org/licenses/by-nc-nd/4.0/",
}
TYPES = {"string": "sc:Text", "int64": "sc:Integer", "int32": "sc:Integer", "float64": "sc:Float", "bool": "sc:Boolean"}
# The context of the specification, verbatim, because validators compare it.
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def render_croissant(
    repo: str, version: str, published: str, licence: str, summary: str, cite: str, configs: Mapping[str, Features]
) -> str:
    """Text of ``croissant.json``: one record set for each configuration; chats and references as JSON."""
    url = f"https://huggingface.co/datasets/{repo}"
    document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "indus-cot",
        "description": summary,
        "license": LICENCES.get(licence, url),
        "url": url,
        "version": version,
        "datePublished": published,
        "creator": {"@type": "Organization", "name": repo.partition("/")[0]},
        "citeAs": cite,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "repo",
                "name": "repo",
                "contentUrl": url,
                "encodingFormat": "git+https",
                # The value that the Hub itself writes, since a repository has no hash.
                "sha256": "https://github.com/mlcommons/croissant/issues/80",
            },
            *(_make_file_set(config) for config in configs),
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": config,
                "name": config,
                "field": _make_fields(config, columns),
            }
            for config, columns in configs.items()
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _make_file_set(config: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{config}-files",
        "name": f"{config}-files",
        "containedIn": {"@id": "repo"},
        "encodingFormat": "application/x-parquet",
        "includes": f"{config}/*/*.parquet",
    }


def _make_fields(config: str, columns: Features) -> Sequence[dict[str, Any]]:
    fields = []
    for column, feature in columns.items():
        inner = feature.feature if isinstance(feature, List) and isinstance(feature.feature, dict) else None
        # Flatten lists of structures, because each Croissant structure would need its own record set.
        parts = {f"{column}.{name}": (name, part) for name, part in inner.items()} if inner else {column: ("", feature)}
        for name, (part, kind) in parts.items():
            data_type, repeated, inside = _describe_feature(kind)
            path = f"[*].{part}" if part else inside
            source: dict[str, Any] = {"fileSet": {"@id": f"{config}-files"}, "extract": {"column": column}}
            if path:
                source["transform"] = {"jsonPath": path}
            item = {
                "@type": "cr:Field",
                "@id": f"{config}/{name}",
                "name": name,
                "dataType": data_type,
                "source": source,
            }
            fields.append(item | ({"repeated": True} if repeated or part else {}))
    return fields


def _describe_feature(feature: Any) -> tuple[str, bool, str]:
    """Type of a column, whether it is a list, and the JSON path of its content."""
    if isinstance(feature, ImageFeature):
        return "sc:ImageObject", False, "bytes"
    if isinstance(feature, List):
        if isinstance(feature.feature, ImageFeature):
            return "sc:ImageObject", True, "[*].bytes"
        if isinstance(feature.feature, List):
            return TYPES[feature.feature.feature.dtype], True, ""
        return TYPES[feature.feature.dtype], True, ""
    if isinstance(feature, Json):
        return "sc:Text", False, ""
    return TYPES[feature.dtype], False, ""
