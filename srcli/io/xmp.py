"""XMP packets: what has to change because the image is upright, larger, and a file of its own now."""

from __future__ import annotations

import hashlib
import re
import struct
from xml.etree import ElementTree

from srcli.version import __version__

RESULT_MARK = b"urn:srcli:result"
"""The XMP namespace of the mark of a result, by which it is recognized in a file of any format."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_NOTE = "http://ns.adobe.com/xmp/note/"
_GONE = {
    "http://ns.adobe.com/hdr-gain-map/1.0/": "gain map",
    "http://ns.apple.com/HDRGainMap/1.0/": "gain map",
    "http://ns.google.com/photos/1.0/container/": "",
    "http://ns.google.com/photos/1.0/container/item/": "",
    "http://ns.google.com/photos/1.0/camera/": "",
    "http://ns.google.com/photos/1.0/depthmap/": "depth map",
    "http://ns.google.com/photos/1.0/image/": "second image",
    "http://ns.google.com/photos/dd/1.0/device/": "depth map",
}
"""Namespaces about other images or videos in the same file, and what these are."""

_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]")
_SIDES = tuple(
    re.compile(rb"((?:tiff:Image%s|exif:Pixel%sDimension)\s*(?:=\s*[\"']|>)\s*)\d+" % names)
    for names in ((b"Width", b"X"), (b"Length", b"Y"))
)

STANDARD_START, EXTENDED_START = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
"""What the content of a JPEG segment with XMP begins with."""
_LARGEST = 65_533 - len(STANDARD_START)
_LARGEST_PART = 65_533 - len(EXTENDED_START) - 40


def upright(xmp: bytes) -> bytes:
    return _ORIENTATION.sub(rb"\g<1>1", xmp)


def resized(xmp: bytes, width: int, height: int) -> bytes:
    for pattern, side in zip(_SIDES, (width, height), strict=True):
        xmp = pattern.sub(rb"\g<1>%d" % side, xmp)
    return xmp


def marked(xmp: bytes | None) -> bytes:
    """The packet, or a new one, with the mark of a result of `srcli upscale`. A packet of another form stays unchanged."""
    if xmp is None:
        xmp = _wrapped(b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="%s"></rdf:RDF></x:xmpmeta>' % _RDF.encode())
    mark = b'<rdf:Description rdf:about="" xmlns:srcli="%s" srcli:version="%s"/>' % (RESULT_MARK, __version__.encode())
    return xmp if RESULT_MARK in xmp else xmp.replace(b"</rdf:RDF>", mark + b"</rdf:RDF>", 1)


def of_jpeg(contents: list[bytes]) -> tuple[bytes, list[str]]:
    """The XMP packet in the APP1 segments of a JPEG, and what of it is lost. Extended XMP becomes a part of the packet."""
    standard = next((part[len(STANDARD_START) :] for part in contents if part.startswith(STANDARD_START)), b"")
    if b"HasExtendedXMP" not in standard:
        return standard, []
    parts: dict[int, bytes] = {}
    total = -1
    for part in contents:
        if part.startswith(EXTENDED_START) and part[len(EXTENDED_START) :][:32] in standard:
            total, offset = struct.unpack(">II", part[len(EXTENDED_START) + 32 :][:8])
            parts[offset] = part[len(EXTENDED_START) + 40 :]
    extended = b"".join(parts[offset] for offset in sorted(parts))
    root, more = _parsed(standard), _parsed(extended)
    if root is None:
        return standard, ["Extended XMP (damaged)"]
    complete = len(extended) == total and more is not None
    descriptions = root.find(f".//{{{_RDF}}}RDF")
    if complete and more is not None and descriptions is not None:
        descriptions.extend(more.iter(f"{{{_RDF}}}Description"))
    _remove(root, {f"{{{_NOTE}}}HasExtendedXMP"})
    return _packet(root), [] if complete else ["Extended XMP (incomplete)"]


def for_jpeg(xmp: bytes) -> list[bytes]:
    """The contents of APP1 segments for a packet of any size: standard XMP, or a reference to Extended XMP."""
    if len(xmp) <= _LARGEST:
        return [STANDARD_START + xmp]
    root = _parsed(xmp)
    body = ElementTree.tostring(root, encoding="utf-8") if root is not None else xmp
    guid = hashlib.md5(body, usedforsecurity=False).hexdigest().upper().encode()
    main = _wrapped(
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="%s"><rdf:Description rdf:about="" xmlns:xmpNote="%s" '
        b'xmpNote:HasExtendedXMP="%s"/></rdf:RDF></x:xmpmeta>' % (_RDF.encode(), _NOTE.encode(), guid)
    )
    head = EXTENDED_START + guid + struct.pack(">I", len(body))
    starts = range(0, len(body), _LARGEST_PART)
    return [STANDARD_START + main, *(head + struct.pack(">I", at) + body[at : at + _LARGEST_PART] for at in starts)]


def without_other_images(xmp: bytes) -> tuple[bytes, set[str]]:
    """The packet without what it says about other images and videos in its file, and what these are, in words."""
    named = [uri for uri in _GONE if uri.encode() in xmp]
    root = _parsed(xmp) if named else None
    if root is None:
        return xmp, set()
    gone = {_GONE[uri] for uri in named} - {""}
    if b"MotionPhoto" in xmp or b"MicroVideo" in xmp:
        gone.add("video of a motion photo")
    if b"GainMap" in xmp:
        gone.add("gain map")
    tags = {element.tag for element in root.iter()} | {name for element in root.iter() for name in element.attrib}
    _remove(root, {tag for tag in tags if tag.startswith(tuple(f"{{{uri}}}" for uri in named))})
    return _packet(root), gone


def _remove(root: ElementTree.Element, names: set[str]) -> None:
    for element in root.iter():
        for child in list(element):
            if child.tag in names:
                element.remove(child)
        for name in names & set(element.attrib):
            del element.attrib[name]


def _parsed(xmp: bytes) -> ElementTree.Element | None:
    """The root of a packet. None if it is damaged, or declares entities, which may be made to fill memory."""
    if b"<!" in xmp:
        return None
    for prefix, uri in re.findall(rb"xmlns:([\w.-]+)\s*=\s*[\"']([^\"']+)", xmp):
        if not re.fullmatch(rb"ns\d+", prefix):  # reserved by ElementTree
            ElementTree.register_namespace(prefix.decode(), uri.decode("utf-8", "replace"))
    try:
        return ElementTree.fromstring(xmp[xmp.find(b"<x:xmpmeta") if b"<x:xmpmeta" in xmp else 0 :].rstrip(b"\0"))
    except ElementTree.ParseError:
        return None


def _packet(root: ElementTree.Element) -> bytes:
    return _wrapped(ElementTree.tostring(root, encoding="utf-8"))


def _wrapped(body: bytes) -> bytes:
    return b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>' + body + b'<?xpacket end="w"?>'
